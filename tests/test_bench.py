"""The benchmarks run, and say what they should; how fast is not for a test."""

from __future__ import annotations

import json
import math
import os
import sys

import pytest
import torch

from bench import (
    busy,
    configurations,
    cost_model,
    machine,
    ops,
    ops_cases,
    recompute,
    throughput,
    workloads,
)
from bench.chart import draw_chart
from bench.flops import count_flops
from bench.peak_memory import peak_tensors
from bench.peer import load_peer
from bench.workloads import BISECTED
from tests.forks import run_fork
from vflow import create_model
from vflow.models import model_config
from vflow.ops import backend, concat_elu, dropout
from vflow.runtime.console import RunStopped


def _options(**changes) -> throughput.Options:
    fields = {"presets": ("vflow-tiny",), "batch_size": 2, "rounds": 1, "device": "cpu"}
    return throughput.Options(**{**fields, **changes})


def test_throughput_times_every_workload_of_every_configuration(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(machine.MATRIX_SIZE, "cpu", 64)
    monkeypatch.setattr(workloads, "IMPORTANCE_SAMPLES", 4)
    result = throughput.measure("vflow-tiny", _options(bisection=True, profile=True))
    found = {(row["configuration"], row["workload"]) for row in result["rows"]}
    names = ("train", "sample", "bound", "bound, 4 samples")
    every = {(name, work) for name in configurations.BY_DEVICE["cpu"] for work in names}
    assert found == every | {("reference", BISECTED)}
    trained = [row for row in result["rows"] if row["workload"] == "train"]
    assert len({row["flops"] for row in trained}) == 1
    for row in result["rows"]:
        assert row["images_per_second"] > 0
    assert {"train", "sample"} == set(result["profile"])
    throughput.print_table(result)
    assert "reference, bisecting" in capsys.readouterr().out
    draw_chart([json.loads(json.dumps(result))], {"device": "here"}, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 10_000


@pytest.mark.alone
def test_trainings_at_once_are_counted_together():
    one = busy.train_together("vflow-tiny", 2, 1, 0.01, "2000")
    assert one > 0
    with pytest.raises(RunStopped, match="a training failed"):
        busy.train_together("vflow-huge", 2, 2, 0.01, "2000")


def test_a_busy_machine_is_measured_with_either_spin(monkeypatch, capsys):
    asked = []

    def train_together(preset, batch_size, processes, seconds, spin):
        asked.append((processes, spin))
        return {(1, "300000"): 100.0, (3, "300000"): 25.0, (1, "2000"): 100.0, (3, "2000"): 95.0}[
            processes, spin
        ]

    monkeypatch.setattr(busy, "train_together", train_together)
    result = busy.measure_busy("vflow-demo", 32, 3, 2)
    assert len(asked) == 8
    assert [row["together_against_alone"] for row in result["busy"]] == [0.25, 0.95]
    busy.print_busy(result)
    assert [line.split()[-2:] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        ["0.25", "x"],
        ["0.95", "x"],
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"busy": -1}, "busy must be an integer of at least 0, got -1"),
        ({"configurations": ("fast",)}, "configurations must name some of .* got 'fast'"),
        ({"configurations": ("graph",)}, "configurations must leave out graph here: .*CUDA graphs"),
        ({"presets": ("vflow-huge",)}, "preset must be one of .* got 'vflow-huge'"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
    ],
)
def test_throughput_refuses_what_it_cannot_time(changes, message):
    with pytest.raises(ValueError, match=message):
        _options(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, got 'int8'"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
    ],
)
def test_ops_refuses_what_it_cannot_time(changes, message):
    with pytest.raises(ValueError, match=message):
        ops.Options(**changes)


ONE_CASE = """
import dataclasses, torch
from bench import ops, ops_cases
case = next(c for c in ops_cases.cases() if c.operation == "dropout" and c.kind == "forward")
case = dataclasses.replace(case, inputs=lambda device: (torch.ones(2, 3),))
type(case).candidates = lambda self, device: ["eager", "reference", "vflow"]
ops.print_table(ops.compare(ops.measure([case], ops.Options(rounds=1)), copy_rate=1e9))
"""


def test_ops_times_the_candidates_of_a_case():
    alone = {k: v for k, v in os.environ.items() if k != "PYTEST_XDIST_WORKER"}
    run = run_fork(ONE_CASE, alone)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["eager", "reference", "vflow"]
    assert "x eager" in lines[-1]


def test_on_a_gpu_both_backends_are_timed_where_they_are(monkeypatch):
    def there(**reasons):
        monkeypatch.setattr(backend, "describe", lambda: {"concat_elu": reasons})
        return [
            case.candidates("cuda") for case in ops_cases.cases() if case.operation == "concat_elu"
        ]

    baselines = ["eager", "compile", "reference"]
    both = there(triton="available", cuda="available")
    assert both == [[*baselines, "triton", "cuda"]] * 4
    assert there(triton="available", cuda="was not built") == [[*baselines, "triton"]] * 4
    assert there(triton="no", cuda="no") == [[*baselines, "vflow"]] * 4


def test_on_a_gpu_rates_and_ratios_are_of_the_time_on_the_device(capsys):
    def row(candidate, device_seconds):
        case = {"operation": "dropout", "size": "some", "kind": "forward", "bytes": 4_000_000}
        times = {"median": 1e-3, "device_seconds": device_seconds, "peak_bytes": None}
        return {**case, "candidate": candidate, **times}

    rows = [row("eager", 8e-6), row("triton", 2e-6), row("cuda", 1e-6)]
    compared = ops.compare(rows, copy_rate=4e12)
    assert [r.get("times_as_fast_as") for r in compared] == [None, {"eager": 4.0}, {"eager": 8.0}]
    assert compared[1]["fraction_of_copy"] == pytest.approx(0.5)
    ops.print_table(compared)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split() == [
        *("cuda", "0.0010", "ms", "4000.0", "GB/s", "100.0%", "of", "copy"),
        *("call", "1.000", "ms", "8.0", "x", "eager"),
    ]


def test_the_peer_must_be_its_checkout(tmp_path):
    with pytest.raises(ValueError, match="peer must be a checkout of chrischute/flowplusplus"):
        load_peer(tmp_path, model_config("flowpp-cifar10"))
    assert str(tmp_path) not in sys.path


def test_the_reference_configuration_drops_as_pytorch_does_and_puts_ours_back():
    gated = configurations.gated
    with configurations.CONFIGURATIONS["reference"].operations():
        torch.manual_seed(0)
        dropped = gated.dropout(torch.ones(8, 8), 0.5)
        torch.manual_seed(0)
        assert torch.equal(dropped, torch.nn.functional.dropout(torch.ones(8, 8), 0.5))
        x = torch.randn(3, 4)
        assert torch.equal(gated.concat_elu(x), torch.nn.functional.elu(torch.cat([x, -x], -1)))
    assert (gated.concat_elu, gated.dropout) == (concat_elu, dropout)


def test_tensors_are_counted_at_their_peak():
    def call():
        first, second = torch.empty(1 << 18), torch.empty(1 << 18)
        del first
        return second, torch.empty(1 << 17)

    assert peak_tensors(call) == 2 << 20
    assert peak_tensors(lambda: None) == 0


def test_recomputation_is_measured(capsys):
    result = recompute.measure(recompute.Options(preset="flowpp-tiny", rounds=1, steps=(1,)))
    assert all(row["same_gradients"] for row in result["rows"])
    none, block, coupling = (row["peak_tensor_bytes"] for row in result["rows"])
    assert none > block > coupling > 0
    recompute.show(result)
    assert "1 checkerboard couplings" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_cost_model_counts_the_flops_that_the_flop_counter_does(precision):
    costs = cost_model.count("vflow-tiny", 2, precision)
    model = create_model("vflow-tiny")
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    model.mark_initialized()
    model.set_precision(precision)
    counted = count_flops(lambda: model(images).mean().backward())
    assert sum(cost.flops for cost in costs) == counted
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert costs[-1].bytes == cost_model.UPDATE_BYTES * parameters


def test_a_step_takes_its_longest_bounds():
    machine = cost_model.Machine(name="", flops=10.0, bandwidth=100.0, least=1.0)
    costs = [
        cost_model.Cost(name="compute", flops=50, bytes=100),
        cost_model.Cost(name="memory", flops=10, bytes=300),
        cost_model.Cost(name="launch", flops=1, bytes=1),
    ]
    assert [cost.bound(machine) for cost in costs] == ["compute", "memory", "launch"]
    assert cost_model.step_seconds(costs, machine) == 5 + 3 + 1


def test_messages_are_a_ring_within_a_node_and_one_between():
    linked = cost_model.Machine(name="", flops=1, bandwidth=1, least=0, near=8e9, far=1e9)
    million = 1_000_000
    assert math.isclose(cost_model.communication(million, 8, linked), 2 * 7 / 8 * 4e6 / 8e9)
    both = 2 * 7 / 8 * 4e6 / 8e9 + 2 * 1 / 2 * 4e6 / 1e9
    assert math.isclose(cost_model.communication(million, 16, linked), both)
    assert cost_model.exposed(1.0, million, 1, linked) == 0
    # All of it hides behind a long step, but for the last bucket: here there is only one.
    assert math.isclose(cost_model.exposed(1.0, million, 16, linked), both)
    assert cost_model.exposed(1.0, 100 * million, 16, linked) < 0.1 * 100 * both
