from __future__ import annotations

import contextlib
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vflow.data.download import fetch

CONTENT = bytes(range(256)) * 64
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT, cut off after `most` bytes, and keeps the ranges asked for."""

    content, most, ranges_known = CONTENT, len(CONTENT), True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/archive.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers["Range"] if self.server.ranges_known else None
        self.server.asked.append(self.headers["Range"])
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(self.server.content):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # of who asks only whether it is there
            self.wfile.write(self.server.content[start : start + self.server.most])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_whole_file(tmp_path, server):
    fetch(server.url, tmp_path / "root" / "a.gz", MD5)
    assert (tmp_path / "root" / "a.gz").read_bytes() == CONTENT
    assert names(tmp_path / "root") == ["a.gz"]


def test_a_download_that_is_cut_off_goes_on_where_it_was(tmp_path, server):
    server.most = 5000
    with pytest.raises(OSError, match=r"5000|IncompleteRead|ended after"):
        fetch(server.url, tmp_path / "a.gz", MD5)
    assert names(tmp_path) == ["a.gz.part"]
    assert (tmp_path / "a.gz.part").stat().st_size == 5000
    server.most = len(CONTENT)
    fetch(server.url, tmp_path / "a.gz", MD5)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=5000-"
    assert names(tmp_path) == ["a.gz"]


@pytest.mark.parametrize("part", [CONTENT, CONTENT[:100], b"something else", b""])
@pytest.mark.parametrize("ranges_known", [True, False])
def test_whatever_part_is_there_the_file_is_right(tmp_path, server, part, ranges_known):
    server.ranges_known = ranges_known
    (tmp_path / "a.gz.part").write_bytes(part)
    fetch(server.url, tmp_path / "a.gz", MD5)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.gz"]


def test_a_wrong_digest_is_named_and_leaves_nothing(tmp_path, server):
    server.content = CONTENT[:-1] + b"x"
    wrong = hashlib.md5(server.content).hexdigest()
    with pytest.raises(OSError, match=rf"must have the MD5 {MD5}, got {wrong}$"):
        fetch(server.url, tmp_path / "a.gz", MD5)
    assert names(tmp_path) == []


def test_processes_at_once_download_once(tmp_path, server):
    def get(_):
        fetch(server.url, tmp_path / "a.gz", MD5)
        return (tmp_path / "a.gz").read_bytes() == CONTENT

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(get, range(4)))
    # Each asks whether it is to be had, one takes it.
    assert len(server.asked) == 5


def test_no_server_makes_no_folder(tmp_path):
    with pytest.raises(OSError, match="refused"):
        fetch("http://127.0.0.1:9/a.gz", tmp_path / "root" / "a.gz", MD5)
    assert not (tmp_path / "root").exists()
