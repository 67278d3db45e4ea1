"""Launchers of the CUDA kernels in csrc/cuda: tensors in, tensors out."""
