"""Which backend runs: the best by default, the named one or an error, in graphs as in eager
mode."""

# ruff: noqa: E501 (a table reads best a row a line)

from __future__ import annotations

import dataclasses
import os
import warnings
from dataclasses import replace

import pytest
import torch

from tests.forks import run_fork
from vflow import ops
from vflow.cli import about
from vflow.ops import backend, gpu, native
from vflow.ops.library import Operation

X, PARAMS = torch.zeros(2, 3), torch.zeros(2, 3, 8)
only_reference = Operation(
    "only_reference",
    "Tensor x -> Tensor",
    fake=torch.empty_like,
    reference=backend.Implementation(launch=torch.clone),
)

HIDE_LIBRARY = """
import pathlib
visible = pathlib.Path.is_file
pathlib.Path.is_file = lambda self: self.name != "libvflow_cpu.so" and visible(self)
"""
CALL = """
import torch
from vflow import ops
from vflow.ops import backend
x, params = torch.zeros(2, 3), torch.zeros(2, 3, 8)
"""


def python(code, **environment):
    return run_fork(code, {**os.environ, "OMP_NUM_THREADS": "1", **environment})


@pytest.fixture
def launches(monkeypatch):
    """The (operation, backend) pairs that were launched, in order."""
    seen = []
    find = backend.implementation

    def record(operation, name):
        seen.append((operation, name))
        return find(operation, name)

    monkeypatch.setattr(backend, "implementation", record)
    return seen


def test_best_first(launches):
    ops.mixlogistic(X, PARAMS)
    ops.mixlogistic(X.half(), PARAMS.half())  # not a dtype of the native kernel
    only_reference(X)
    assert launches == [
        ("mixlogistic", "cpu"),
        ("mixlogistic", "reference"),
        ("only_reference", "reference"),
    ]


def test_named(launches):
    with ops.use_backend("reference"):
        ops.mixlogistic(X, PARAMS)
        with ops.use_backend("cpu"):
            ops.mixlogistic(X, PARAMS)
        ops.mixlogistic(X, PARAMS)
    ops.mixlogistic(X, PARAMS)
    assert [name for _, name in launches] == ["reference", "cpu", "reference", "cpu"]


def test_left_by_an_exception(launches):
    with pytest.raises(KeyError), ops.use_backend("reference"):
        raise KeyError
    ops.mixlogistic(X, PARAMS)
    assert launches == [("mixlogistic", "cpu")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: only_reference(X), "backend 'cpu' cannot run only_reference: only_reference has no cpu implementation; available: reference"),
        (lambda: ops.mixlogistic(X.half(), PARAMS.half()), "it takes torch.float32 or torch.float64 or torch.bfloat16, got torch.float16; available: reference, cpu"),
        (lambda: ops.mixlogistic(X.to("meta"), PARAMS.to("meta")), "it takes tensors on cpu, got meta"),
    ],
    ids=["no kernel", "dtype", "device"],
)  # fmt: skip
def test_named_never_falls_back(call, message):
    with ops.use_backend("cpu"), pytest.raises(ValueError, match=message):
        call()


def test_unknown_and_unavailable_names():
    with pytest.raises(ValueError, match=r"one of reference, cpu, triton, cuda, exact, got 'gpu'"):
        ops.use_backend("gpu").__enter__()
    if torch.cuda.is_available():
        return
    with pytest.raises(ValueError, match=r"backend 'cuda' is not available: .*; available: ref"):
        ops.use_backend("cuda").__enter__()


def test_backward_runs_on_the_backend_of_its_forward(launches):
    leaf = X.clone().requires_grad_()
    with ops.use_backend("reference"):
        y, _ = ops.mixlogistic(leaf, PARAMS)
    y.sum().backward()
    assert launches == [("mixlogistic", "reference"), ("mixlogistic_backward", "reference")]


def test_a_graph_holds_the_backend_it_was_traced_under(launches):
    torch._dynamo.reset()
    compiled = torch.compile(ops.mixlogistic, fullgraph=True, backend="aot_eager")
    leaf = X.clone().requires_grad_()
    for name in ("cpu", "reference", "cpu"):
        with ops.use_backend(name):
            y, _ = compiled(leaf, PARAMS)
        del launches[:-1]  # tracing may have run more
        assert launches == [("mixlogistic", name)]
        y.sum().backward()
        assert launches[-1] == ("mixlogistic_backward", name)
    with ops.use_backend("cpu"), pytest.raises(Exception, match="cannot run only_reference"):
        torch.compile(lambda x: only_reference(x), fullgraph=True, backend="eager")(X)


def test_describe():
    table = backend.describe()
    assert set(table) >= {"mixlogistic", "mixlogistic_inverse", "actnorm_conv1x1", "concat_elu"}
    assert all(set(row) == set(backend.BACKENDS) for row in table.values())
    assert all(row["reference"] == "available" for row in table.values())
    assert table["mixlogistic"]["cpu"] == "available"
    assert table["only_reference"]["cpu"] == "only_reference has no cpu implementation"


def test_without_the_library():
    """The reference serves when nothing was asked for, and a warning tells; nothing else does."""
    code = HIDE_LIBRARY + CALL + "ops.mixlogistic(x, params)\n"
    code += "print(backend.describe()['mixlogistic']['cpu'])\n"
    found = python(code)
    assert found.returncode == 0, found.stderr
    assert "libvflow_cpu.so was not built" in found.stdout
    assert "UserWarning: vflow runs on plain PyTorch here" in found.stderr
    named = python(HIDE_LIBRARY + CALL + "ops.use_backend('cpu').__enter__()\n")
    assert (
        "ValueError: backend 'cpu' is not available: libvflow_cpu.so was not built" in named.stderr
    )


def test_without_triton_or_a_device():
    """Neither is imported nor asked for before it is of use, and the reason is told."""
    code = CALL + "import sys\nops.mixlogistic(x, params)\nprint('triton' in sys.modules)\n"
    found = python(code, CUDA_VISIBLE_DEVICES="")
    assert found.stdout.strip() == "False", found.stderr
    named = "ops.use_backend('triton').__enter__()\n"
    blocked = "import sys\nsys.modules['triton'] = None\n" + CALL + "ops.mixlogistic(x, params)\n"
    for code, reason in (
        (blocked + named, r"triton is not installed (pip install 'vflow[triton]')"),
        (CALL + named, "there is no CUDA device"),
    ):
        found = python(code, CUDA_VISIBLE_DEVICES="")
        assert f"ValueError: backend 'triton' is not available: {reason}; " in found.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reference", None),
        ("gpu", "backend must be one of reference, cpu, triton, cuda, exact, got 'gpu'"),
        ("cuda", "backend 'cuda' cannot run mixlogistic"),
    ],
)
def test_environment_variable(name, message):
    code = CALL + "ops.mixlogistic(x, params)\nprint(backend.choose('mixlogistic', x))\n"
    found = python(code, VFLOW_BACKEND=name)
    if message is None:
        assert found.stdout.strip() == name, found.stderr
    else:
        assert found.returncode != 0
        assert f"ValueError: {message}" in found.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", None),
        ("cpu", None),
        (
            "gpu",
            r"backend must be one of reference, cpu, triton, cuda, exact, got 'gpu' \(VFLOW_BACKEND\)",
        ),
        ("CPU", r"got 'CPU' \(VFLOW_BACKEND\)"),
    ],
)
def test_the_environment_can_be_checked_early(monkeypatch, name, message):
    monkeypatch.setenv(backend.ENVIRONMENT_VARIABLE, name)
    monkeypatch.setattr(backend, "_forced", name or None)
    if message is None:
        backend.require_usable("cpu")
        ops.mixlogistic(X, PARAMS)
        return
    for call in (
        lambda: backend.require_usable("cpu"),
        lambda: ops.mixlogistic(X, PARAMS),
        lambda: torch.vmap(ops.concat_elu)(X),
        lambda: ops.self_attention(torch.ones(1, 2, 3, 1, 4)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


class Gpu:
    """As much of a tensor on a CUDA device as the choice of a backend looks at."""

    device, dtype = torch.device("cuda", 0), torch.float32


@pytest.fixture
def card(monkeypatch):
    """A card of the given compute capability, with Triton and the CUDA library installed."""

    def insert(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
        monkeypatch.setattr(gpu, "_triton_absent", lambda: None)
        monkeypatch.setattr(gpu, "_triton_broken", lambda: None)
        monkeypatch.setattr(native, "_cuda_library_missing", lambda: None)

    return insert


@pytest.mark.parametrize("operation", ["mixlogistic", "concat_elu_backward", "self_attention"])
def test_an_old_card_is_served_by_the_next_backend(card, monkeypatch, operation):
    card((9, 0))
    assert backend.choose(operation, Gpu) == "triton"
    card((7, 5))
    assert backend.choose(operation, Gpu) == "reference"
    reason = "it needs a device of compute capability 8.0 or above, cuda:0 has 7.5"
    for name in ("triton", "cuda"):
        assert backend.describe()[operation][name] == reason
        with pytest.raises(
            ValueError, match=f"'{name}' is not available: {reason}; available: ref"
        ):
            ops.use_backend(name).__enter__()
        monkeypatch.setattr(backend, "_forced", name)
        with pytest.raises(ValueError, match=f"'{name}' cannot run {operation}: {reason}; avail"):
            backend.choose(operation, Gpu)
    # One that the other backend can serve, and one card beside another.
    monkeypatch.setattr(backend, "_forced", None)
    known = backend._implementations[operation]
    monkeypatch.setitem(known, "cuda", dataclasses.replace(known["cuda"], capability=(7, 0)))
    assert backend.choose(operation, Gpu) == "cuda"
    card((9, 0), (7, 5))
    assert backend.choose(operation, Gpu) == "triton"
    with ops.use_backend("triton"):
        assert backend.choose(operation, Gpu) == "triton"


def test_info_tells_the_reason(card, monkeypatch):
    card((7, 5))
    monkeypatch.setattr(about, "_cuda_devices", list)
    assert "triton: it needs a device of compute capability 8.0" in about.describe_machine()


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_library_that_does_not_load_says_why(tmp_path, name):
    load, path = getattr(native, f"load_{name}"), tmp_path / f"libvflow_{name}.so"
    with pytest.raises(native.LibraryMissing, match=rf"{path.name} was not built \(pip install"):
        load(path)
    path.write_bytes(b"not a library")
    with pytest.raises(native.LibraryMissing, match=rf"{path.name} does not load: "):
        load(path)


def test_a_library_of_another_version_says_so(monkeypatch):
    found = f"has ABI version {native.ABI_VERSION}, this package needs 99"
    monkeypatch.setattr(native, "ABI_VERSION", 99)
    with pytest.raises(native.LibraryMissing, match=found):
        native.load_cpu(native.LIBRARY_FOLDER / "libvflow_cpu.so")


def test_a_slow_cpu_is_told_once_and_a_named_one_not(monkeypatch):
    known = backend._implementations["mixlogistic"]
    monkeypatch.setitem(known, "cpu", replace(known["cpu"], missing="it was not built: no tools"))
    monkeypatch.setattr(backend, "_told", False)
    with ops.use_backend("reference"), warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.mixlogistic(X, PARAMS)
    with pytest.warns(UserWarning, match="plain PyTorch .* it was not built: no tools; see vflow"):
        ops.mixlogistic(X, PARAMS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.mixlogistic(X, PARAMS)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ('{"missing": {"cpu": "no g++"}}', "was not built: no g++ (install what is missing"),
        ('{"missing": {}}', "was not built (pip install needs cmake and a C++ compiler)"),
        ("[]", "was not built (pip install needs"),
        ("", "was not built (pip install needs"),
    ],
)
def test_the_builds_reason_is_told(tmp_path, report, said):
    (tmp_path / "build.json").write_text(report)
    with pytest.raises(native.LibraryMissing) as missing:
        native.load_cpu(tmp_path / "libvflow_cpu.so")
    assert str(missing.value).startswith(f"libvflow_cpu.so {said}")
