"""The authors' numbers (tests/data/golden), and how close to them we must be."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "data" / "golden"
TOLERANCE = 1e-6


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def layer(name: str) -> dict[str, np.ndarray]:
    """The arrays of one layer, by the part of the key after its name."""
    prefix = f"{name}/"
    found = {k[len(prefix) :]: v for k, v in load("layers").items() if k.startswith(prefix)}
    assert found, f"no golden layer {name}"
    return found


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(torch.float64)


def assert_close(actual: torch.Tensor, expected: np.ndarray, what: str) -> None:
    """Agreement relative to the array's scale."""
    expected = np.asarray(expected)
    assert tuple(actual.shape) == expected.shape, f"{what}: {tuple(actual.shape)}"
    assert expected.size, f"{what} is empty"
    scale = np.abs(expected).max()
    error = np.abs(actual.detach().numpy() - expected).max()
    assert error <= TOLERANCE * scale, f"{what}: error {error:.2e} at scale {scale:.2e}"


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The standard normal array that a name determines."""
    state = np.random.RandomState(zlib.crc32(name.encode()))
    return np.asarray(state.randn(*shape)).astype(np.float32)


def seeded_variable(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that the golden models give to a variable."""
    noise, last = seeded(name, shape), name.split("/")[-1]
    if last == "g":
        return np.exp(np.float32(0.1) * noise)
    if last in ("W0", "W1"):
        return np.eye(shape[0], dtype=np.float32) + np.float32(0.05) * noise
    if last == "W":
        gain = 0.1 if "proj_out" in name else 0.6
        return noise * np.float32(gain / np.sqrt(np.prod(shape[:-1])))
    return np.float32(0.05) * noise


def seeded_images(batch: int) -> torch.Tensor:
    """uint8 [B, 3, 32, 32]."""
    images = np.clip(np.round(128 + 50 * seeded("images", (batch, 32, 32, 3))), 0, 255)
    return torch.from_numpy(images.astype(np.uint8)).permute(0, 3, 1, 2)


def seeded_noise(name: str, batch: int, channels: int) -> torch.Tensor:
    """[B, channels, 32, 32]."""
    return tensor(seeded(name, (batch, 32, 32, channels))).permute(0, 3, 1, 2)
