"""What `pip install vflow` brings is enough for models and data; each extra's lack is one line.

An extra is hidden from a process of its own, as if pip had not brought it.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest

import vflow
from tests.forks import run_fork
from vflow.runtime.extras import BROUGHT_BY, MissingExtra, require

HIDE = """
import sys
for module in {modules!r}:
    sys.modules[module] = None
"""
CLI = HIDE + "from vflow.cli import main; main({args!r})"
FEATURES = ("--samples", "4", "--features", "torch.nn:Flatten")
OURS = Path(vflow.__file__).parent
LIBRARY = """
import numpy, torch, vflow
from vflow.compression import decode, encode
model = vflow.create_model("vflow-tiny", filters=4, components=2)
images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
(-model.elbo(images).mean()).backward()
model.eval()
assert model.sample(2).shape == (2, 3, 16, 16)
assert torch.equal(decode(model, encode(model, images)), images)
images_of = vflow.data.load_images("folder:{folder}", "train", image_size=16)
assert len(images_of) > 500  # as many as have a progress bar
assert vflow.scores.code_bits(images, "png").shape == (4,)
assert vflow.scores.measure(model, images).bits.shape == (4,)
config = vflow.evaluate.EvaluateConfig(model="{out}/model", data="npy:{folder}/x.npy", device="cpu")
model.save_pretrained("{out}/model")
assert vflow.evaluate.evaluate(config)["images"] == 4
vflow.train.TrainConfig(), vflow.sample.SampleConfig(model="{out}/model")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return run_fork(code, {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"})


def test_the_library_needs_no_extra(tmp_path: Path) -> None:
    """Models, data, archives, evaluation."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(600):
        Image.new("RGB", (16, 16), (index % 256, 0, 0)).save(folder / f"{index}.png")
    np.save(folder / "x.npy", np.zeros((40, 16, 16, 3), np.uint8))
    # tqdm comes with the Hub's client, which writes the card of a saved model.
    hidden = HIDE.format(modules=[name for name in BROUGHT_BY if name != "tqdm"])
    done = run(hidden + LIBRARY.format(folder=folder, out=tmp_path))
    assert done.returncode == 0, done.stderr


def test_without_tqdm_there_is_no_bar_and_nothing_else_changes() -> None:
    """The Hub's client brings tqdm today; ours must not count on that."""
    code = HIDE.format(modules=["tqdm"]) + (
        "from vflow.runtime.progress import bar, progress_bar\n"
        "with progress_bar(3, 'image') as shown, bar(desc='images', total=3) as other:\n"
        "    for each in (shown, other):\n"
        "        each.update(); each.set_postfix_str('x'); each.set_description('y')\n"
        "        assert each.disable\n"
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("module", "args", "use"),
    [
        ("tyro", ["train", "--data", "photos"], "vflow train"),
        ("tyro", ["evaluate", "--help"], "vflow evaluate"),
        ("tyro", ["sample", "cifar10-mini"], "vflow sample"),
        ("tyro", ["report", "runs/first"], "vflow report"),
        ("tyro", ["models", "vflow-*"], "vflow models"),
        ("matplotlib", ["train", "--out", "OUT"], "training"),
        ("tensorboard", ["train", "--out", "OUT"], "training"),
        ("matplotlib", ["report", "OUT"], "vflow report"),
        ("matplotlib", ["publish", "OUT", "name"], "vflow publish"),
        ("matplotlib", ["score", "cifar10-mini", "--data", "photos"], "vflow score"),
        ("matplotlib", ["toy", "--out", "OUT"], "the toy study"),
        ("scipy", ["score", "cifar10-mini", "--data", "photos"], "vflow score"),
        ("skimage", ["evaluate", "photos-mini", "--data", "photos"], "photos"),
        ("skimage", ["demo", "--out", "OUT"], "photos"),
        ("torchmetrics", ["fid", "photos-mini", "--data", "DATA", *FEATURES], "FID"),
        ("torch_fidelity", ["fid", "photos-mini", "--data", "DATA"], "inception"),
        ("timm", ["fid", "photos-mini", "--data", "DATA", "--features", "timm:x"], "timm:x"),
        ("imagecodecs", ["score", "photos-mini", "--data", "DATA", "--complexity", "jxl"], "codec"),
    ],
)
def test_one_line_says_what_is_missing(
    tmp_path: Path, module: str, args: list[str], use: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((40, 32, 32, 3), np.uint8))
    out = tmp_path / "out"
    places = {"OUT": str(out), "DATA": f"npy:{tmp_path / 'x.npy'}"}
    done = run(CLI.format(modules=[module], args=[places.get(arg, arg) for arg in args]))
    assert done.returncode == 1
    package, extra = BROUGHT_BY[module]
    command = f"pip install 'vflow[{extra}]'"
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        f"vflow: error: {use}.* needs {package}, which is not installed: (.*)", last
    )
    assert last.endswith(command)
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_version_help_and_info_need_no_extra() -> None:
    for args in (["--help"], ["--version"], ["info"]):
        done = run(CLI.format(modules=[*BROUGHT_BY], args=args))
        assert done.returncode == 0, done.stderr
    done = run(CLI.format(modules=["tyro"], args=["info"]))
    assert done.stdout.startswith(f"vflow {vflow.__version__}")


def test_every_extra_is_required_before_its_modules_are_imported() -> None:
    """A module of an extra is imported within a function or for types only, and is known."""
    known = {*BROUGHT_BY, "torch.utils.tensorboard"}
    for path in OURS.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                assert not any(name == k or name.startswith(f"{k}.") for k in known), path


def test_the_extras_are_those_of_the_package() -> None:
    found = requires("vflow")
    assert found is not None
    for module, (package, extra) in BROUGHT_BY.items():
        of_extra = [line for line in found if re.search(rf"extra == ['\"]{extra}['\"]", line)]
        assert any(re.match(rf"{package}\b", line) for line in of_extra), (module, extra)
        always = [line for line in found if "extra ==" not in line]
        assert not any(re.match(rf"{package}\b", line) for line in always), module


def test_what_is_installed_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    require("tyro", "this test")
    monkeypatch.setitem(sys.modules, "tyro", None)
    expected = "this test needs tyro, which is not installed: pip install 'vflow[cli]'"
    with pytest.raises(MissingExtra, match=re.escape(expected)):
        require("tyro", "this test")
    with pytest.raises(MissingExtra, match="a command line needs tyro"):
        _ = vflow.runtime.extras.tyro.conf
