"""How long a training step should take, from its arithmetic, its memory traffic and its messages.

    python bench/cost_model.py                          the paper's models on H200s, 1 to 64
    python bench/cost_model.py --measured RESULTS.json  this machine, beside what was measured

A forward and backward pass is run once with tensors that have shapes and no contents, and every
operation PyTorch sees is counted: its FLOPs, and the bytes of the tensors it reads and writes.
Clipping, Adam and the average come to it as one more, of 72 bytes a parameter. An operation takes

    max(FLOPs / matrix-product rate, bytes / memory bandwidth, least time of a kernel)

and the step the sum of them. Operations that only rename memory cost nothing. With several
processes the gradients' sum is added, as far as the backward pass does not hide it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vflow  # before torch, for the spin of its threads

# isort: split
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import vflow.ops.flops  # noqa: F401
from vflow.models import create_model
from vflow.runtime.console import one_line_errors
from vflow.runtime.extras import tyro
from vflow.runtime.files import read_json

PRESETS = ("vflow-cifar10", "flowpp-cifar10", "vflow-4m-c6")
PROCESSES = (1, 8, 16, 64)
GPUS_A_NODE = 8
UPDATE_BYTES = 72
"""Of float32 parameters, gradients, Adam's two moments and the average, read and written."""
BUCKET = 25 << 20
"""Bytes of gradients that DistributedDataParallel sums at once: the last cannot be hidden."""
BACKWARD_SHARE = 0.6
"""Of a step's time, in which sums can hide."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a step is held against: rates that are reached, not those on a data sheet."""

    name: str
    flops: float
    """FLOP/s of matrix products at the networks' precision."""
    bandwidth: float
    """Bytes/s, read and written."""
    least: float
    """Seconds that the shortest kernel takes."""
    near: float = math.inf
    """Bytes/s that a process sends to its neighbour on the same node."""
    far: float = math.inf
    """Bytes/s between nodes, all of a node's together."""


H200 = {
    "eager": Machine(name="H200, eager", flops=0.5 * 989e12, bandwidth=4.3e12, least=8e-6),
    "graph": Machine(name="H200, CUDA graph", flops=0.5 * 989e12, bandwidth=4.3e12, least=2e-6),
}
NVLINK = 0.8 * 450e9
LINKS = {"NVLink throughout": GPUS_A_NODE * NVLINK, "100 Gb Ethernet": 0.8 * 12.5e9}
"""Bytes/s between nodes."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One operation."""

    name: str
    flops: int
    bytes: int

    def seconds(self, machine: Machine) -> float:
        """The longest of the three."""
        return max(self.flops / machine.flops, self.bytes / machine.bandwidth, machine.least)

    def bound(self, machine: Machine) -> str:
        """Which of the three that is."""
        compute, memory = self.flops / machine.flops, self.bytes / machine.bandwidth
        if max(compute, memory) < machine.least:
            return "launch"
        return "compute" if compute > memory else "memory"


class Counter(TorchDispatchMode):
    """Notes every operation that does something."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[Cost] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if func.is_view or packet in FREE or func.namespace == "prim":
            return result
        tensors = {id(t): t for t in tree_leaves((args, kwargs, result)) if _is_tensor(t)}
        count = flop_registry.get(packet)
        flops = count(*args, **kwargs, out_val=result) if count else 0
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self.costs.append(Cost(name=str(packet), flops=int(flops), bytes=moved))
        return result


FREE = (
    torch.ops.aten.detach,
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
)
"""Operations without work, beside those that make views."""


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def count(preset: str, batch_size: int, precision: Literal["fp32", "bf16"]) -> list[Cost]:
    """The operations of a training step, nothing of which is computed."""
    torch.manual_seed(0)
    model = create_model(preset)
    model.mark_initialized()
    model.set_precision(precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty((batch_size, *model.data_shape), dtype=torch.uint8)
        noise = model.draw_noise(batch_size)
        with Counter() as counter:
            model(images, **noise).mean().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    update = Cost(name="update", flops=0, bytes=UPDATE_BYTES * parameters)
    return [*counter.costs, update]


def communication(parameters: int, processes: int, machine: Machine) -> float:
    """Seconds of summing float32 gradients: a ring in each node, then one of the nodes."""
    size = 4 * parameters
    near, nodes = min(processes, GPUS_A_NODE), math.ceil(processes / GPUS_A_NODE)
    within = 2 * (near - 1) / near * size / machine.near
    return within + 2 * (nodes - 1) / nodes * size / machine.far


def step_seconds(costs: Iterable[Cost], machine: Machine) -> float:
    """A step of one process."""
    return sum(cost.seconds(machine) for cost in costs)


def exposed(step: float, parameters: int, processes: int, machine: Machine) -> float:
    """Seconds of communication that the backward pass does not hide."""
    if processes == 1:
        return 0.0
    total = communication(parameters, processes, machine)
    last = total * min(1.0, BUCKET / (4 * parameters))
    return max(last, total - BACKWARD_SHARE * step)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Predict how long training steps take."""

    batch_size: int = 64
    """Images a step of each GPU."""
    measured: Path | None = None
    """Results of bench/throughput.py: predict for that machine, instead, and compare."""


@one_line_errors
def main() -> None:
    """Print predictions."""
    options = tyro.cli(Options, prog="bench/cost_model.py", description=__doc__)
    if options.measured is not None:
        compare(options.measured)
        return
    for preset in PRESETS:
        predict(preset, options.batch_size)


def predict(preset: str, batch_size: int) -> None:
    """Print a preset's table."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in create_model(preset).parameters())
    costs = count(preset, batch_size, "bf16")
    flops, moved = sum(c.flops for c in costs), sum(c.bytes for c in costs)
    print(
        f"\n{preset}, batch {batch_size} a GPU, bf16: {flops / batch_size / 1e9:.1f} GFLOP and "
        f"{moved / batch_size / 1e9:.2f} GB an image, {len(costs)} operations, "
        f"{4 * parameters / 1e6:.0f} MB of gradients"
    )
    for machine in H200.values():
        alone = step_seconds(costs, machine)
        shares = {bound: 0.0 for bound in ("compute", "memory", "launch")}
        for cost in costs:
            shares[cost.bound(machine)] += cost.seconds(machine) / alone
        text = ", ".join(f"{share:.0%} {bound}" for bound, share in shares.items())
        print(f"  {machine.name}: {1e3 * alone:.1f} ms ({text})")
        for name, far in LINKS.items():
            linked = Machine(**{**vars(machine), "near": NVLINK, "far": far})
            rates = []
            for processes in PROCESSES:
                step = alone + exposed(alone, parameters, processes, linked)
                rates.append(f"{processes}: {processes * batch_size / step:,.0f}")
            print(f"    {name:18} images/s by GPUs  {'  '.join(rates)}")


def compare(path: Path) -> None:
    """Print prediction and measurement for a machine that bench/throughput.py has timed."""
    results = read_json(path)
    for result in results["models"]:
        for row in result["rows"]:
            kind = row["workload"], row["configuration"], result["recompute"]
            if kind not in {("train", "kernels", none) for none in ("none", False)}:
                continue
            machine = Machine(
                name=results["machine"]["device"],
                flops=result["matrix_product_flops_per_second"]["fp32"],
                bandwidth=1e9 * results["machine"]["copy_gigabytes_per_second"],
                least=5e-6,
            )
            costs = count(result["preset"], result["batch_size"], "fp32")
            predicted = step_seconds(costs, machine)
            measured = result["batch_size"] / row["images_per_second"]
            print(
                f"{result['preset']}, batch {result['batch_size']}: predicted "
                f"{predicted:.3f} s a step, measured {measured:.3f} s ({predicted / measured:.0%})"
            )


if __name__ == "__main__":
    main()
