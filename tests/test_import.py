"""What `import vflow` leaves alone until something needs it: CUDA, Triton, the CUDA library, torch.

Each in a process of its own, with a stand-in that counts who asks for a device.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.forks import run_fork

COUNT = """
import ctypes, os, sys
import torch
asked = []
def counted(name, answer):
    def ask(*arguments, **options):
        asked.append(name)
        return answer
    setattr(torch.cuda, name, ask)
counted("is_available", False)
counted("device_count", 0)
counted("init", None)
counted("_lazy_init", None)
counted("current_device", 0)
counted("get_device_capability", (9, 0))
counted("get_device_properties", None)
load = ctypes.CDLL.__init__
def loads(self, name, *arguments, **options):
    if "cuda" in str(name):
        asked.append(str(name))
    load(self, name, *arguments, **options)
ctypes.CDLL.__init__ = loads
import vflow
"""
REPORT = """
ours = [name for name in sys.modules if name.startswith("vflow.kernels.")]
print(asked, ours, torch.cuda.is_initialized(), "triton" in sys.modules)
"""
MODEL = """
model = vflow.create_model("flowpp-tiny", filters=8, blocks=1)
images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
model.initialize(images)
"""
STEP = (
    MODEL
    + """
parameters = list(model.parameters())
loss = -model.elbo(images).mean()
for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
    p.data -= 1e-3 * g
model.eval()
model.sample(1), model.bits_per_dim(images), model.decode(model.encode(images))
"""
)
NAMED = """
with vflow.ops.use_backend("cpu"):
    vflow.ops.concat_elu(torch.ones(2, 3))
    try:
        vflow.ops.concat_elu(torch.ones(2, 3).half())
    except ValueError as error:
        assert "available: reference, cpu" in str(error), error
with vflow.ops.use_backend("reference"):
    torch.func.grad(lambda t: vflow.ops.concat_elu(t).sum())(torch.ones(2, 3))
"""
MODELS = """
import contextlib, io
from vflow.cli import main
sys.argv = ["vflow", "models", "*-tiny"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
"""


def run(code, **environment):
    found = run_fork(COUNT + code, {**os.environ, "OMP_NUM_THREADS": "1", **environment})
    assert found.returncode == 0, found.stderr
    return found.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "imports_triton"),
    [("", False), (STEP, False), (NAMED, None), (MODELS, None)],
    ids=["import", "a step and samples on the CPU", "named backends", "vflow models"],
)
def test_nothing_asks_for_a_device(code, imports_triton):
    """PyTorch's own compiler imports Triton for torch.func and for random numbers on "meta"."""
    *nothing_else, triton = run(code + REPORT).split()
    assert nothing_else == ["[]", "[]", "False"]
    assert imports_triton is None or triton == str(imports_triton)


SLOW = ("huggingface_hub", "matplotlib", "PIL", "scipy", "tensorboard", "triton", "tyro")


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("import vflow", ("torch", "numpy", "safetensors", *SLOW)),
        ("main(['--help'])", ("torch", "numpy", "safetensors", *SLOW)),
        ("main(['--version'])", ("torch", "numpy", "safetensors", *SLOW)),
        ("import vflow.models", SLOW),
        ("vflow.load_model('cifar10-mini')", SLOW),
        ("vflow.scores", ("huggingface_hub", "matplotlib", "scipy", "tensorboard", "tyro")),
        ("vflow.train, vflow.evaluate", ("matplotlib", "scipy", "tensorboard", "tyro")),
        ("main(['info'])", ("matplotlib", "scipy", "tensorboard", "tyro")),
    ],
)
def test_what_is_not_imported(code, left):
    """What keeps an import and a first word quick; without torch there is no counting it."""
    setting = "import contextlib, sys, vflow\nfrom vflow.cli import main\n"
    do = f"with contextlib.suppress(SystemExit):\n    {code}\n"
    tell = f"print([name for name in {left!r} if name in sys.modules])"
    if "torch" in left:
        command = [sys.executable, "-c", setting + do + tell]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        done = run_fork(setting + do + tell)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_device_that_comes_later_counts():
    """'No device' is not remembered: what CUDA_VISIBLE_DEVICES says after the import holds."""
    code = """
from vflow.ops import backend
def usable(name):
    try:
        with backend.use_backend(name):
            return "usable"
    except ValueError as error:
        return "no CUDA device" if "there is no CUDA device" in str(error) else str(error)
sys.modules.setdefault("triton", type(sys)("triton"))
import importlib.machinery
sys.modules["triton"].__spec__ = importlib.machinery.ModuleSpec("triton", None)
before = usable("triton")
counted("is_available", True)
counted("device_count", 1)
print(before, "then", usable("triton"))
"""
    assert run(code) == "no CUDA device then usable"


def test_forks_stay_usable():
    code = (
        MODEL
        + """
child = os.fork()
if child == 0:
    model.elbo(images).sum().backward()
    os._exit(0 if not torch.cuda._is_in_bad_fork() and not asked else 1)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert run(code) == "child 0"
