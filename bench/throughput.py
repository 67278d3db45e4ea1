"""Images a second of whole models, by configuration, in one run.

    python bench/throughput.py
    python bench/throughput.py --presets vflow-cifar10 --batch-size 64 --configurations kernels bf16
    python bench/throughput.py --presets flowpp-cifar10 --batch-size 2 --peer ../flowplusplus
    python bench/throughput.py --presets vflow-4m-c6 --ranks 2
    python bench/throughput.py --presets vflow-demo --batch-size 32 --busy 3

Configurations take turns within a round, so that a noisy neighbour hits all alike; the median
counts. A training step is the trainer's own: noise, forward, backward, clipping, Adam, average.
FLOPs are those of convolutions, matrix products and attention (torch.utils.flop_counter), and are
set against a square matrix product of the same precision timed in the same run. Memory is what a
step needs at its peak above what the model and its optimiser hold.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for `python bench/throughput.py`

import vflow  # noqa: F401, before torch, for the spin of its threads

# isort: split
import torch

from bench.busy import measure_busy, print_busy
from bench.chart import draw_chart, label_of, rows_by_workload
from bench.configurations import BY_DEVICE, CONFIGURATIONS, Configuration
from bench.flops import count_flops
from bench.machine import copy_bandwidth, describe, matrix_product_rate
from bench.model_profile import profiled
from bench.peak_memory import peak_memory
from bench.peer import load_peer, peer_training
from bench.ranks import measure_scaling
from bench.workloads import Workload, bisected_sampling, inference, training
from vflow.io.fields import require_int
from vflow.models import model_config
from vflow.nets.recompute import Recompute
from vflow.runtime.console import one_line_errors
from vflow.runtime.extras import tyro
from vflow.runtime.files import write_json
from vflow.runtime.tf32 import tf32
from vflow.train.cuda_graph import EAGER_STEPS

PEER = "peer"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Images a second of whole models, by configuration, in one run."""

    presets: tuple[str, ...] = ()
    """Models; by default vflow-4m-c6, on a GPU vflow-cifar10 too; see `vflow models`."""
    batch_size: int | None = None
    """Images a training step; by default 8, on a GPU 64."""
    samples: int | None = None
    """Images drawn at once; by default the batch size."""
    configurations: tuple[str, ...] = ()
    """Which of reference, kernels, bf16, compile, bf16+compile, graph, bf16+graph; by default what
    suits the device."""
    inference: bool = True
    """Time sampling and likelihoods too."""
    bisection: bool = False
    """Time sampling with the authors' 200 bisections, too."""
    recompute: Recompute = "none"
    """What the backward pass computes again instead of keeping it."""
    peer: Path | None = None
    """Checkout of github.com/chrischute/flowplusplus, to time at the same widths."""
    ranks: int = 1
    """Time training in so many processes too, each with a batch of its own of that size."""
    busy: int = 0
    """Time only this: so many trainings at once on the CPU, against one alone, with libgomp's own
    spin of the threads and with the short one."""
    rounds: int = 3
    """Timed calls of each; the median counts."""
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    """cpu or cuda."""
    profile: bool = False
    """Tell what the time of a step and of sampling goes to."""
    json: Path | None = None
    """Write the results here, and a chart beside it as PNG."""

    def __post_init__(self) -> None:
        """Check what was asked for, and choose what was left out.

        Raises:
            ValueError: If there is no such preset, configuration or device.
        """
        if self.device not in BY_DEVICE:
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")
        cuda = self.device == "cuda"
        if cuda and not torch.cuda.is_available():
            raise ValueError("device must be cpu where there is no CUDA, got 'cuda'")
        require_int("busy", self.busy, 0)
        if self.busy and cuda:
            raise ValueError(
                f"busy must be 0 on a GPU, got {self.busy}: it is about the CPU's threads"
            )
        presets = self.presets or (("vflow-cifar10",) if cuda else ()) + ("vflow-4m-c6",)
        for name in presets:
            model_config(name)
        configurations = self.configurations or BY_DEVICE[self.device]
        for name in configurations:
            if name not in CONFIGURATIONS:
                known = ", ".join(CONFIGURATIONS)
                raise ValueError(f"configurations must name some of {known}, got {name!r}")
            missing = CONFIGURATIONS[name].missing(self.device)
            if missing:
                raise ValueError(f"configurations must leave out {name} here: {missing}")
        batch_size = self.batch_size or (64 if cuda else 8)
        for name, value in (
            ("presets", presets),
            ("configurations", configurations),
            ("batch_size", batch_size),
            ("samples", self.samples or batch_size),
        ):
            object.__setattr__(self, name, value)


def measure(preset: str, options: Options) -> dict[str, Any]:
    """Time all configurations of a preset."""
    from tqdm import trange  # comes with tyro, whose absence the command line tells

    assert options.batch_size is not None
    assert options.samples is not None
    device = torch.device(options.device)
    chosen = [CONFIGURATIONS[name] for name in options.configurations]
    work: list[tuple[Configuration | None, str, Workload]] = []
    for configuration in chosen:
        trainer = configuration.trainer(
            preset, options.batch_size, device, recompute=options.recompute
        )
        work.append((configuration, configuration.name, training(trainer)))
        if options.inference and not configuration.trains_only:
            some = list(inference(trainer.model, options.batch_size, options.samples))
            work += [(configuration, configuration.name, one) for one in some]
        if options.bisection and configuration.backend == "reference":
            bisected = bisected_sampling(trainer.model, options.samples)
            work.append((configuration, configuration.name, bisected))
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    flops = _train_flops(preset, options)
    if options.peer is not None:
        model = load_peer(options.peer, model_config(preset))
        step = peer_training(model, options.batch_size, options.device)
        work.append((None, PEER, step))

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for way, name, one in work:  # warms up and compiles, too
        with _operations(way):
            # A graph is captured, and not run eagerly, after so many steps.
            graphed = way is not None and way.cuda_graph
            for _ in range(EAGER_STEPS + 1 if graphed else 0 if one.once else 1):
                one.call()
            row = {"configuration": name, "workload": one.name, "images": one.images, "seconds": []}
            if one.name == "train":
                row["flops"] = count_flops(one.call) if way is None else flops
                row["precision"] = way.precision if way else "fp32"
                # What a graph needs, it keeps.
                row["peak_bytes"] = None if graphed else peak_memory(one.call, options.device)
        rows[name, one.name] = row
    rates: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for number in trange(options.rounds, desc=preset, leave=False):
        for precision, dtype in PRECISIONS.items():
            rates[precision].append(matrix_product_rate(options.device, dtype))
        for way, name, one in work:
            if number > 0 and one.once:
                continue
            with _operations(way):
                if one.name == "train":
                    one.call()  # steps follow steps: the caches should hold what one leaves
                rows[name, one.name]["seconds"].append(stopwatch(one, options.device))
    medians = {precision: statistics.median(found) for precision, found in rates.items()}
    result = {
        "preset": preset,
        "parameters": parameters,
        "batch_size": options.batch_size,
        "recompute": options.recompute,
        "matrix_product_flops_per_second": medians,
        "rows": [_finish(row, medians) for row in rows.values()],
    }
    if options.profile:
        result["profile"] = {
            one.name: profiled(one.call, options.device)
            for _, name, one in work
            if name == "kernels" and one.name in ("train", "sample")
        }
    return result


def _operations(configuration: Configuration | None) -> Any:
    stack = ExitStack()
    stack.enter_context((configuration or CONFIGURATIONS["kernels"]).operations())
    stack.enter_context(tf32(False))  # or cuDNN would round in some rows and not in others
    return stack


def _train_flops(preset: str, options: Options) -> int:
    """FLOPs of a step, from one image pair: they grow with the batch, and eager ones are seen."""
    device = torch.device(options.device)
    assert options.batch_size is not None
    trainer = CONFIGURATIONS["kernels"].trainer(preset, 2, device)
    return count_flops(training(trainer).call) * options.batch_size // 2


def stopwatch(work: Workload, device: str) -> float:
    """Seconds that a call takes, the GPU's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work.call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _finish(row: dict[str, Any], product_rates: dict[str, float]) -> dict[str, Any]:
    seconds = statistics.median(row["seconds"])
    row["images_per_second"] = row["images"] / seconds
    if "flops" in row:
        row["flops_per_second"] = row["flops"] / seconds
        row["fraction_of_matrix_product"] = (
            row["flops_per_second"] / product_rates[row["precision"]]
        )
    return row


def print_table(result: dict[str, Any]) -> None:
    """Print a block for each workload."""
    again = "" if result["recompute"] == "none" else f", {result['recompute']}s computed again"
    rates = result["matrix_product_flops_per_second"].items()
    products = ", ".join(f"{precision} {rate / 1e9:.0f}" for precision, rate in rates)
    print(
        f"\n{result['preset']}: {result['parameters']:,} parameters, batch "
        f"{result['batch_size']}{again}; matrix products at {products} GFLOP/s"
    )
    for workload, mine in rows_by_workload(result["rows"]):
        print(f"  {workload}, {mine[0]['images']} images")
        first = mine[0]["images_per_second"]
        for row in mine:
            line = f"    {label_of(row):22} {row['images_per_second']:9.3f} images/s"
            line += f" {row['images_per_second'] / first:6.2f} x"
            if "flops" in row:
                line += (
                    f" {row['flops'] / 1e9:8.1f} GFLOP {row['flops_per_second'] / 1e9:7.1f} GFLOP/s"
                )
                line += f" {row['fraction_of_matrix_product']:6.1%}"
                if row["peak_bytes"] is not None:
                    line += f"  peak {row['peak_bytes'] / 2**20:8.0f} MiB"
            print(line)
    for kind, entries in result.get("profile", {}).items():
        print(f"\n  {kind}: share of the time, milliseconds, calls")
        for entry in entries:
            numbers = f"{entry['share']:7.1%} {entry['milliseconds']:9.1f} {entry['calls']:6}"
            print(f"  {numbers}  {entry['operation']}")


@one_line_errors
def main() -> None:
    """Time every preset, print a table, write JSON and a chart."""
    options = tyro.cli(Options, prog="bench/throughput.py", description=__doc__)
    began = time.monotonic()
    results = []
    for preset in options.presets:
        if options.busy:
            assert options.batch_size is not None
            results.append(measure_busy(preset, options.batch_size, options.busy, options.rounds))
            print_busy(results[-1])
            continue
        result = measure(preset, options)
        print_table(result)
        if options.ranks > 1:
            assert options.batch_size is not None
            gc.collect()  # the trainers and what they hold of the GPU that a rank needs
            if options.device == "cuda":
                torch.cuda.empty_cache()
            result["scaling"] = scaling = measure_scaling(
                preset, options.batch_size, options.ranks, options.device, options.rounds
            )
            print(
                f"  {options.ranks} ranks: {scaling['images_per_second']:.3f} images/s, one rank "
                f"{scaling['one_rank_images_per_second']:.3f}; efficiency "
                f"{scaling['efficiency']:.1%} ({scaling['threads']} threads a rank)\n"
                f"  gradients: {scaling['summed_bytes'] / 1e6:.1f} MB a step in "
                f"{scaling['buckets']} buckets, {1e3 * scaling['sum_seconds']:.1f} ms to sum, "
                f"{1e3 * scaling['hidden_seconds']:.1f} ms of it within the "
                f"{1e3 * scaling['backward_seconds']:.1f} ms of the backward pass"
            )
        results.append(result)
    print(f"\n{time.monotonic() - began:.0f} s")
    if options.json is not None:
        machine = describe(options.device)
        machine["copy_gigabytes_per_second"] = copy_bandwidth(options.device) / 1e9
        write_json(options.json, {"machine": machine, "models": results})
        if options.busy:
            print(f"written to {options.json}")
            return
        chart = options.json.with_suffix(".png")
        draw_chart(results, machine, chart)
        print(f"written to {options.json} and {chart}")


if __name__ == "__main__":
    main()
