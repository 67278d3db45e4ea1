"""Flow++ at the presets' own sizes against localbitsback: minutes, and 3 GB of memory.

python -m tests.full_size [flowpp-cifar10 flowpp-imagenet32 flowpp-imagenet64]
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import vflow
from tests import golden, peers_flowpp


def main(names: list[str]) -> None:
    arrays = golden.load("flowpp_peer")
    for name in names:
        model = vflow.create_model(name).double().eval()
        peers_flowpp.load(model)
        images, eps_u = peers_flowpp.inputs(model)
        with torch.no_grad():
            nats = model.elbo(images, eps_u=eps_u)
        expected = arrays[f"{name}/full_nats"]
        golden.assert_close(nats, expected, name)
        difference = np.abs(nats.numpy() / expected - 1).max()
        print(f"{name}: {expected[0]:.6f} nats, relative difference {difference:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(peers_flowpp.CASES))
