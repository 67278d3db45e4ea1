"""Every operation in plain PyTorch, any floating dtype: the oracle of the tests and the fallback.

No validation here (the public functions of `vflow.ops` have checked), no autograd either: gradients
are the `*_backward` functions, which recompute what they need from the operation's inputs.
"""
