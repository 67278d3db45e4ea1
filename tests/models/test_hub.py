"""Models on the Hub: against a server here that answers as it does, or against none."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import vflow
from vflow.io import saved_files
from vflow.models import load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/flow"


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as NAME's, and counts what it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def answer(self, with_content: bool) -> None:
        if "/resolve/" in self.path:  # and not what the client asks for on its own account
            self.server.asked.append(f"{self.command} {self.path}")
        prefix = f"/{NAME}/resolve/"
        if not self.path.startswith(prefix):
            return self.refuse("RepoNotFound", 401)
        revision, _, name = self.path.removeprefix(prefix).partition("/")
        if revision not in ("main", COMMIT):
            return self.refuse("RevisionNotFound", 404)
        if not (self.server.folder / name).is_file():
            return self.refuse("EntryNotFound", 404)
        content = (self.server.folder / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_content:
            self.wfile.write(content)
        return None

    def refuse(self, code: str, status: int) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def model() -> vflow.FlowPlusPlus:
    torch.manual_seed(0)
    model: Any = vflow.create_model("flowpp-tiny", filters=4, components=2, image_size=8)
    model.mark_initialized()
    return model


@pytest.fixture
def hub(
    model: vflow.FlowPlusPlus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    model.save_pretrained(tmp_path / "served")
    server = Hub(tmp_path / "served")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_to(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def point_to(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have huggingface_hub take another server for the Hub, and a cache of its own."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hub: connections are refused, and whoever would wait and try again fails."""
    point_to("http://127.0.0.1:1", tmp_path, monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_model_of_the_hub(
    hub: Hub, model: vflow.FlowPlusPlus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"in the Hub's cache; only it was to be looked in"):
        vflow.load_model(NAME, local_files_only=True)
    assert not hub.asked
    assert same(vflow.load_model(NAME), model)
    assert [line for line in hub.asked if line.startswith("GET")] == [
        f"GET /{NAME}/resolve/main/config.json",
        f"GET /{NAME}/resolve/main/model.safetensors",
    ]
    hub.asked.clear()
    for kind in (load_model, vflow.load_model, vflow.FlowPlusPlus.from_pretrained):
        assert same(kind(NAME, revision=COMMIT, token=False, map_location="cpu"), model)
        assert same(kind(NAME, local_files_only=True), model)
    assert not any(line.startswith("GET") for line in hub.asked)
    vflow.load_model(NAME, force_download=True)
    assert sum(line.startswith("GET") for line in hub.asked) == 2
    vflow.load_model(NAME, cache_dir=tmp_path / "another")
    assert sum(line.startswith("GET") for line in hub.asked) == 4

    # The Hub is gone: what was downloaded will do, without a wait.
    point_to("http://127.0.0.1:1", tmp_path, monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    assert same(vflow.load_model(NAME), model)
    assert same(vflow.load_model(NAME, force_download=True), model)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert same(vflow.load_model(NAME), model)
    with pytest.raises(FileNotFoundError, match=r"^there is no folder a/b, nor .*HF_HUB_OFFLINE"):
        vflow.load_model("a/b")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("someone/else", {}, r"^there is no folder someone/else, nor has the Hub a model of that"),
        (NAME, {"revision": "v9"}, r"^revision must be one of the Hub's someone/flow, got 'v9'$"),
        (
            "some one/flow!",
            {},
            r"^model must be a folder or a Hub repository, but there is no some",
        ),
    ],
)
def test_what_the_hub_has_not(hub: Hub, name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message) as caught:
        vflow.load_model(name, **options)
    assert "\n" not in str(caught.value)
    assert len(hub.asked) <= 1


def test_a_repository_without_a_model(hub: Hub) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"^{NAME} on the Hub must hold a config\.json and"
    ):
        vflow.load_model(NAME)
    (hub.folder / "config.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"^{NAME} on the Hub must hold a config\.json and"
    ):
        vflow.load_model(NAME)


@pytest.mark.usefixtures("nowhere")
def test_without_the_hub_it_fails_at_once() -> None:
    with pytest.raises(FileNotFoundError, match=r"a/b, nor .* cache; the Hub did not answer: "):
        vflow.load_model("a/b")


@pytest.mark.parametrize(
    "path",
    [
        *("./x", "../x", "/no/such/model", "~/no-such-model", ".", "runs/y/model", "a/b/"),
        *("model.pt", "a/model.safetensors", "a/b.npz", "here/run", "a-name-alone", r"a\b", ""),
    ],
)
def test_a_local_looking_path_is_not_looked_for_on_the_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saved_files, "_ask", lambda *args: pytest.fail("asks the Hub"))
    message = r"^model must be a folder or a Hub repository, but there is no " + path[:1]
    if Path(path) == Path():
        message = r"must hold a config\.json, but there is none$"  # this folder
    with pytest.raises(FileNotFoundError, match=message.replace("\\a", "a")):
        vflow.load_model(path)


def test_hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no runs/frist \(did you mean runs/first\?\)$"):
        vflow.load_model("runs/frist")
    with pytest.raises(
        FileNotFoundError, match=r"\(vflow-cifar10 is a preset, which vflow\.create"
    ):
        vflow.load_model("vflow-cifar10")


def test_arguments_of_the_hubs_models(
    model: vflow.FlowPlusPlus, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path)
    kind: Any = vflow.FlowPlusPlus
    assert same(kind.from_pretrained(pretrained_model_name_or_path=tmp_path), model)
    loaded = kind.from_pretrained(tmp_path, map_location="meta")
    assert next(loaded.parameters()).device.type == "meta"
    assert next(vflow.load_model(tmp_path, "meta").parameters()).device.type == "meta"
    with pytest.raises(ValueError, match=r"^map_location must be device where both are given"):
        vflow.load_model(tmp_path, "cpu", map_location="meta")
    with pytest.raises(ValueError, match=r"^device must name a device, got 'tpu9'$"):
        vflow.load_model(tmp_path, "tpu9")
    with pytest.raises(TypeError, match="proxy"):
        vflow.load_model("a/b", proxy="x")

    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    left_out = sorted(tensors)[-1]
    del tensors[left_out]
    save_file({**tensors, "head.weight": torch.zeros(2)}, weights)
    with pytest.raises(ValueError, match=r"but 2 differ: "):
        vflow.load_model(tmp_path)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"is loaded in part: of its tensors 2 differ: "):
        partly = vflow.load_model(tmp_path, strict=False).state_dict()
    assert all(torch.equal(tensors[name], partly[name]) for name in tensors)
    save_file({**tensors, left_out: torch.zeros(7)}, weights)
    with pytest.raises(ValueError, match=rf"differ: {left_out} \(7,\) for"):
        vflow.load_model(tmp_path, strict=False)
