"""Python in processes of its own that begin with torch imported: forks of one that has imported it.

An import of torch takes two seconds of a processor, a fork of it hundredths. What depends on how a
process starts, as OpenMP's variables and what is imported before torch do, is not for a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

ROOT = Path(__file__).parents[1]
FORK = multiprocessing.get_context("fork")
SECONDS = 300  # after which a fork is killed
TRAIN = "from vflow.train.__main__ import main; main()"


def run_fork(
    code: str, environment: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """What subprocess.run gives for `python -c CODE` in an environment and a folder."""
    return _run([code], [environment or os.environ], cwd)[0]


def run_command(
    arguments: Sequence[str], code: str = TRAIN, size: int = 2
) -> subprocess.CompletedProcess[str]:
    """What a command of `size` processes comes to: all that they print, the worst of exit codes.

    Args:
        arguments: Its command line.
        code: What runs it; by default training.
        size: Processes.
    """
    ranks = run_ranks(f"import sys\nsys.argv[1:] = {list(arguments)!r}\n{code}", size)
    texts = ["".join(getattr(rank, name) for rank in ranks) for name in ("stdout", "stderr")]
    worst = max((rank.returncode for rank in ranks), key=abs)
    return subprocess.CompletedProcess(list(arguments), worst, *texts)


def run_ranks(code: str, size: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run code in the processes of a group, in the environments that torchrun makes for them."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    group |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    each = [{**group, "RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
    environments = [{**os.environ, **{k: str(v) for k, v in own.items()}} for own in each]
    return _run([code] * size, environments, ROOT)


def _run(
    codes: list[str], environments: list[Mapping[str, str]], cwd: Path
) -> list[subprocess.CompletedProcess[str]]:
    with TemporaryDirectory() as folder:
        files = [
            [Path(folder, f"{i}.{name}") for name in ("out", "err")] for i in range(len(codes))
        ]
        _server().send(
            [
                (code, dict(environment), cwd, pair)
                for code, environment, pair in zip(codes, environments, files, strict=True)
            ]
        )
        exit_codes = _server().recv()
        written = [[path.read_text() for path in pair] for pair in files]
    return [
        subprocess.CompletedProcess([sys.executable, "-c", code], exit_code, *texts)
        for code, exit_code, texts in zip(codes, exit_codes, written, strict=True)
    ]


@cache
def _server() -> Connection:
    """To the process that forks."""
    ours, theirs = Pipe()
    code = f"from tests.forks import serve; serve({theirs.fileno()})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)  # which ends it; runs first
    return ours


def serve(handle: int) -> None:
    """Fork for each code that comes in, until nobody is there to send one."""
    import torch  # noqa: F401

    gc.freeze()  # else every fork copies the memory that it collects
    with Connection(handle) as requests, contextlib.suppress(EOFError):
        while True:
            requests.send(
                _exit_codes([FORK.Process(target=_become, args=a) for a in requests.recv()])
            )


def _exit_codes(processes: list[ForkProcess]) -> list[int | None]:
    """Where one fails, the others, which may wait for it, are ended."""
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in wait(list(running)):
            ended = running.pop(sentinel)
            ended.join()
            for other in running.values() if ended.exitcode else ():
                other.kill()
    return [process.exitcode for process in processes]


def _become(code: str, environment: dict[str, str], cwd: Path, files: list[Path]) -> None:
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    signal.alarm(SECONDS)
    sys.modules["__main__"] = main = ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)
