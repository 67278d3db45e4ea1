"""Fetch a file once, going on where an earlier attempt was cut off."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from vflow.runtime.files import sync_file, sync_folder
from vflow.runtime.locks import locked
from vflow.runtime.progress import bar

_SECONDS = 30  # without a byte
_CHUNK = 1 << 20


def md5_of(path: Path) -> str:
    """The MD5 of a file."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(url: str, path: Path, md5: str) -> None:
    """Download a file, unless another process has by the time it is our turn.

    What has come stays beside it as NAME.part, from which the next attempt goes on.

    Args:
        url: Where it is.
        path: Where it is to go.
        md5: The digest it must have.

    Raises:
        OSError: If it cannot be fetched or written, or has another digest.
    """
    _request(url, 0).close()  # before a folder is made for what cannot be had
    with locked(path.parent / f".{path.name}.lock"):
        if path.exists():
            return
        part = path.with_name(f"{path.name}.part")
        resumed = part.exists()
        _receive(url, part, path.name)
        got = md5_of(part)
        if got != md5 and resumed:  # the beginning may have been of something else
            part.unlink()
            _receive(url, part, path.name)
            got = md5_of(part)
        if got != md5:
            part.unlink()
            raise OSError(f"what came from {url} must have the MD5 {md5}, got {got}")
        sync_file(part)
        part.rename(path)
        sync_folder(path.parent)


def _request(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "vflow", **({"Range": f"bytes={start}-"} if start else {})}
    request = urllib.request.Request(url, headers=headers)
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_SECONDS)
    return response


def _receive(url: str, part: Path, name: str) -> None:
    """Fetch what is missing of a file."""
    have = part.stat().st_size if part.exists() else 0
    try:
        response = _request(url, have)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # it asks for what is beyond the end
            raise
        return
    with response:
        if response.status != 206:
            have = 0  # the server begins anew
        left = response.length
        total = None if left is None else have + left
        with (
            open(part, "ab" if have else "wb") as file,
            bar(desc=name, total=total, initial=have, unit="B", unit_scale=True) as shown,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                shown.update(len(chunk))
                have += len(chunk)
        if total is not None and have < total:
            raise OSError(f"the connection ended after {have} of {total} bytes")
