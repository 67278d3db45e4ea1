"""The operations as calls of the native libraries: checked tensors in, tensors out.

The CPU library and the CUDA library have the same functions, so each launcher is written once; what
differs is how a function is called (`vflow.ops.launchers.call`), which a launcher takes first.
"""
