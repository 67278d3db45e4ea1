"""`vflow publish`: a run's model with its card, in a folder and on a stand-in of the Hub."""

from __future__ import annotations

import base64
import dataclasses
import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

import vflow
from tests.models.test_hub import COMMIT, NAME, point_to
from vflow.cli import main
from vflow.report.card import Facts, card
from vflow.report.command import train_command
from vflow.report.runs import read_run
from vflow.train import ModelOverrides, OptimConfig, TrainConfig, train

FILES = {"README.md", "config.json", "curves.png", "model.safetensors", "samples.png"}


class Hub(ThreadingHTTPServer):
    """Takes a commit of files, all of them within the request, as small ones are sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.made: list[dict[str, object]] = []
        self.files: dict[str, bytes] = {}
        self.refuses = self.loses_connection = False


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses:
            return self.answer({"error": "no right to write there"}, 403)
        if self.server.loses_connection:
            return self.connection.close()
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return self.answer({"url": f"http://{self.headers['Host']}/{NAME}", "name": NAME})
        if self.path.startswith(f"/api/models/{NAME}/preupload/"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
            ]
            return self.answer({"files": modes})
        assert self.path.startswith(f"/api/models/{NAME}/commit/"), self.path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                self.server.files[value["path"]] = base64.b64decode(value["content"])
        url = f"http://{self.headers['Host']}/{NAME}/commit/{COMMIT}"
        commit = {"commitUrl": url, "commitOid": COMMIT}
        return self.answer({**commit, "success": True})

    def do_GET(self) -> None:
        self.answer({"sha": COMMIT, "id": NAME, "siblings": []})

    def answer(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_to(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_for_a_test")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps with two evaluations, and one of other weights."""
    folder = tmp_path_factory.mktemp("publish")
    np.save(
        folder / "images.npy", np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    )
    data = f"npy:{folder / 'images.npy'}"
    torch.manual_seed(0)
    train(
        TrainConfig(
            out=folder / "run",
            preset="vflow-tiny",
            data=data,
            batch_size=4,
            steps=2,
            log_every=1,
            eval_every=0,
            sample_every=0,
            model=ModelOverrides(filters=4, components=2),
            optim=OptimConfig(lr=0.002),
        )
    )
    for samples in ("1", "3"):
        main(["evaluate", str(folder / "run"), "--data", data, "--samples", samples])
    path = next((folder / "run").glob("evaluation-*-3*.json"))
    other = json.loads(path.read_text())
    other["digests"]["model"] = "another's"
    (folder / "run" / "evaluation-of-another.json").write_text(json.dumps(other))
    return folder / "run"


def test_the_command_of_a_card_is_the_run() -> None:
    """Every kind of field, and what older runs said otherwise."""
    config = TrainConfig(
        preset="glow-tiny",
        image_size=(32, 48),
        flip=True,
        epochs=2,
        recompute="coupling",
        checkpoint_minutes=0.5,
        model=ModelOverrides(set=("scales=[2,1]", "width=4"), image_size=(32, 48)),
        optim=OptimConfig(betas=(0.8, 0.99)),
    )
    word, name, *flags = shlex.split(train_command(config.to_json(), "images of mine"))
    assert (word, name) == ("vflow", "train")
    expected = dataclasses.replace(config, data="images of mine")
    assert tyro.cli(TrainConfig, args=flags) == expected
    older = {**TrainConfig().to_json(), "recompute": True}
    assert train_command(older).endswith("--data DATA --recompute block")
    assert train_command({**older, "recompute": False}).endswith("--data DATA")


def test_a_folder_that_tells_all(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "tiny"
    for _ in range(2):  # what is a model's folder may be written over
        main(["publish", str(run), "tiny", "-o", str(out), "--data", "noise"])
    evaluations = {"evaluation-test-2-1.json", "evaluation-test-2-3.json"}
    assert {path.name for path in out.iterdir()} == FILES | evaluations
    model, original = vflow.load_model(out), vflow.load_model(run)
    assert all(map(torch.equal, model.state_dict().values(), original.state_dict().values()))
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: vflow\n")
    assert "vflow train --preset vflow-tiny --data DATA --batch-size 4 --steps 2" in card
    assert "--optim.lr 0.002" in card
    assert "2 steps of 4 images, which is 0.44 epochs of 18 images" in card
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters for 3x8x8 images" in card
    for name in evaluations:
        found = json.loads((out / name).read_text())
        assert (found["model"], found["data"]) == ("tiny", "noise")
        assert f"{found['elbo_bits_per_dim']['mean']:.4f} ±" in card
    assert card.count("| noise, test |") == 2
    assert 'vflow.load_model("tiny")' in card
    assert not any(
        str(run.parent) in (out / name).read_text() for name in (*evaluations, "README.md")
    )


def test_in_half_the_size_with_the_figures_of_what_is_left(run: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "half", f"npy:{run.parent / 'images.npy'}"
    main(["publish", str(run), "half", "-o", str(out), "--half"])
    assert {path.name for path in out.iterdir()} == FILES
    assert "±" not in (out / "README.md").read_text()
    model, original = vflow.load_model(out), vflow.load_model(run)
    for ours, before in zip(model.parameters(), original.parameters(), strict=True):
        assert torch.equal(ours, before.half().float())
    found = run / "evaluation-half.json"
    main(["evaluate", str(out), "--data", data, "--out", str(found)])
    main(["publish", str(run), "half", "-o", str(out), "--half"])
    assert {path.name for path in out.iterdir()} == FILES | {"evaluation-test-2-1.json"}
    bits = json.loads(found.read_text())["elbo_bits_per_dim"]["mean"]
    assert f"{bits:.4f} ±" in (out / "README.md").read_text()
    found.unlink()


def test_others_may_read_what_a_run_and_a_model_leave(run: Path, tmp_path: Path) -> None:
    """Whoever may read any new file: weights are not their owner's alone."""
    out = tmp_path / "tiny"
    main(["publish", str(run), "tiny", "-o", str(out)])
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    files = [path for folder in (run, out) for path in folder.rglob("*") if path.is_file()]
    assert len({path.suffix for path in files}) >= 5
    assert {str(path) for path in files if path.stat().st_mode != usual} == set()


def test_it_is_the_card_of_the_run_under_another_name(tmp_path: Path) -> None:
    """The evaluation after the run's last step stands in for later ones, of the same weights."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8))
    config = TrainConfig(
        out=tmp_path / "run",
        preset="vflow-tiny",
        data=f"npy:{tmp_path / 'x.npy'}",
        batch_size=4,
        steps=1,
        eval_every=1,
        sample_every=0,
        model=ModelOverrides(filters=4, components=2),
    )
    train(config)
    main(["publish", str(tmp_path / "run"), "tiny", "-o", str(tmp_path / "tiny")])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (found,) = (record for record in map(json.loads, lines) if record["kind"] == "eval")
    expected = f"| 2 | 1 | {found['bits_per_dim']:.4f} ± {found['stderr']:.4f} | - |"
    of_run = (tmp_path / "run" / "model" / "README.md").read_text()
    assert expected in of_run
    for ours, theirs in (("# run\n", "# tiny\n"), ('model("model")', 'model("tiny")')):
        assert ours in of_run
        of_run = of_run.replace(ours, theirs)
    assert (tmp_path / "tiny" / "README.md").read_text() == of_run
    same = [(tmp_path / place / "samples.png").read_bytes() for place in ("run/model", "tiny")]
    assert same[0] == same[1]


def test_what_changed_on_the_way_is_told_in_words(run: Path) -> None:
    rates, size = {"optim.lr": {"was": 0.1, "is": 0.2}}, {"batch_size": {"was": 4, "is": 8}}
    changes = [{"step": 7, "changes": {**rates, **size}}, {"step": 9, "changes": rates}]
    said = {"name": "x", "path": "x", "data": "noise", "model": "VFlow", "shape": (3, 8, 8)}
    facts = Facts(**said, parameters=1, training_images=18, evaluations=[], changes=changes)
    text = card(read_run(run), facts)
    assert "\nFrom step 7 on: optim.lr was 0.1 and is 0.2, batch_size was 4 and is 8.\n" in text
    assert "\nFrom step 9 on: optim.lr was 0.1 and is 0.2.\n" in text
    assert "{" not in text


def test_a_note_stands_on_the_card(run: Path, tmp_path: Path) -> None:
    main(["publish", str(run), "tiny", "-o", str(tmp_path / "tiny"), "--note", "Noise, no images."])
    assert "\nNoise, no images.\n" in (tmp_path / "tiny" / "README.md").read_text()


def test_to_the_hub(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "flow"
    main(["publish", str(run), NAME, "--out", str(out), "--upload", "--private"])
    assert f"commit/{COMMIT}" in capsys.readouterr().out
    assert hub.made[0]["name"] == NAME.partition("/")[2]
    assert hub.files.keys() == {path.name for path in out.iterdir()}
    assert all((out / name).read_bytes() == content for name, content in hub.files.items())


@pytest.mark.parametrize("how", ["refuses", "loses_connection"])
def test_a_hub_that_does_not_take_it(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    setattr(hub, how, True)
    with pytest.raises(SystemExit):
        main(["publish", str(run), NAME, "--out", str(tmp_path / "flow"), "--upload"])
    assert f"is written, but the Hub did not take {NAME}: " in capsys.readouterr().err
    assert (tmp_path / "flow" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["RUN", "a b"], "NAME must be a name or OWNER/NAME, got 'a b'"),
        (["RUN", "a/b/c"], "NAME must be a name or OWNER/NAME"),
        (["RUN", "../a"], "NAME must be a name or OWNER/NAME"),
        (["RUN", "tiny", "--upload"], "NAME must be OWNER/NAME to be uploaded, got 'tiny'"),
        (["nowhere", "tiny"], "nowhere must be a run's folder"),
        (
            ["RUN", "tiny", "--out", "full"],
            "out must be a model's folder or a new one, but full is",
        ),
    ],
)
def test_refusals(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["publish", *(str(run) if arg == "RUN" else arg for arg in args)])
    assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]
