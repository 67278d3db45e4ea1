"""Mutate an archive thousands of times, decode each, and see that nothing is wrong without a word.

A real archive of a tiny model is damaged from a seed: bits flipped, bytes cut, inserted, copied and
deleted, lengths forged, chunks exchanged with another archive's. Of half of them the checksums are
put right again, so that what is behind them meets the damage too: the chunks' numbers, the coder,
the ordinary codecs, the header's and the index's JSON. Each must end in an error that names the
part, or in the pictures that were compressed; never in another exception, a wrong picture without
an error, a crash, a hang, or more memory than the limit.

    python scripts/mutate_archives.py --preset flowpp-tiny --count 5000
    python scripts/mutate_archives.py --preset glow-tiny --seed 5000 --count 5000

Blocks of mutations run in forked processes whose address space is limited.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
# isort: off
import vflow

# isort: on
import numpy as np
import torch

from vflow import compression
from vflow.compression.chunk import ChunkInfo
from vflow.compression.container import CODEC, TILES, Entry, Reader, Writer
from vflow.models import ImageFlow
from vflow.ops.coder import LANES

NUMBERS = (0, 1, 2, 3, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64)
ARITHMETICS = ("native", "exact", "exact 2")
VALUES = (*NUMBERS, -1, 1.5, True, None, "", *ARITHMETICS, "L", "RGB", [], {}, [1 << 30] * 2)
HEAD_BYTES, LANE_BYTES = 36, 16  # of a chunk of tiles, docs/format.md
SECONDS_EACH = 30
IMAGES, CHUNK_TILES = 48, 26
MODELS = {
    "flowpp-tiny": {"full_stages": [["checkerboard", 1]], "half_stages": [["channel", 1]]},
    "glow-tiny": {"scales": [1, 1]},
}
"""Presets, at their smallest."""
PARTS = re.compile(r"chunk \d|header|index|archive|lost")


class Archive:
    """An archive's bytes, and what it holds."""

    def __init__(self, model: ImageFlow, arithmetic: str, seed: int) -> None:
        size, generator = model.data_shape[1], torch.Generator().manual_seed(seed)
        slopes = torch.randn(5 + IMAGES, 1, 1, 3, 2, generator=generator) * 6
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        plane = slopes[..., 0] * (y - 4)[..., None] + slopes[..., 1] * (x - 4)[..., None]
        noise = 3 * torch.randn(plane.shape, generator=generator)
        pixels = (128 + plane + noise).clamp(0, 255).to(torch.uint8).numpy()
        file = io.BytesIO()
        writer = compression.ArchiveWriter(
            file, model, arithmetic=arithmetic, chunk_tiles=CHUNK_TILES, batch=2
        )
        writer.add_picture(compression.Picture("a.png", pixels[0], pixels[1, ..., 0]))
        wide = np.concatenate([pixels[2], pixels[3][:, :3]], axis=1)
        writer.add_picture(compression.Picture("b.png", wide))
        writer.add_images(pixels[5:], "set")
        writer.add_picture(compression.Picture("c.png", pixels[4][:2, :3]))
        writer.close()
        self.bytes = file.getvalue()
        infos = [info for _, info in compression.ArchiveReader(file).infos()]
        # Not all may be first tiles, which ordinary codecs decode.
        assert all(isinstance(i, ChunkInfo) and i.first_tiles + 9 < i.tiles for i in infos), infos
        self.pictures = pictures_of(model, self.bytes)
        self.contents = {content(picture) for picture in self.pictures}


def pictures_of(model: ImageFlow, data: bytes) -> list[compression.Picture | ValueError]:
    """What decoding gives; what `vflow list` reads is read too."""
    reader = compression.ArchiveReader(io.BytesIO(data), model)
    list(reader.infos())
    return list(reader.pictures())


def content(picture: compression.Picture | ValueError) -> tuple[object, ...]:
    """A picture as something to compare."""
    assert isinstance(picture, compression.Picture)
    alpha = None if picture.alpha is None else picture.alpha.tobytes()
    return picture.pixels.shape, picture.pixels.tobytes(), alpha


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, insert, copy, delete, or put a large number where four or eight bytes are."""
    mutated = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at, kind = rng.randrange(max(1, len(mutated))), rng.randrange(6)
        if not mutated:
            break
        if kind == 0:
            mutated[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            mutated = mutated[: max(1, at)]
        elif kind == 2:
            mutated[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 3:
            other, length = rng.randrange(len(mutated)), rng.choice([1, 8, 64, 1024])
            mutated[at : at + length] = mutated[other : other + length]
        elif kind == 4:
            number = rng.choice(NUMBERS) % 2**64
            size = rng.choice([4, 8])
            mutated[at : at + size] = number.to_bytes(8, "little")[:size]
        else:
            del mutated[at : at + rng.randrange(1, 40)]
    return bytes(mutated)


def forge_chunk(data: bytes, rng: random.Random) -> bytes:
    """Another number in a chunk's head or in a lane's."""
    starts = [(4 * i, 4) for i in range(5)]
    for lane in range(LANES):
        at = HEAD_BYTES + lane * LANE_BYTES
        starts += [(at, 8), (at + 8, 4), (at + 12, 4)]
    at, size = rng.choice(starts)
    old = int.from_bytes(data[at : at + size], "little")
    new = rng.choice([*NUMBERS, old - 1, old + 1, old ^ 1 << rng.randrange(8 * size)])
    return data[:at] + (new % 256**size).to_bytes(size, "little") + data[at + size :]


def forge_json(value: object, rng: random.Random) -> object:
    """The same tree with another leaf, or with a part of it gone or twice."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, copy = rng.choice(list(keys)), value.copy()
        if rng.random() < 0.1:
            if isinstance(copy, list) and rng.random() < 0.5:
                copy.insert(rng.randrange(len(copy)), copy[key])
            else:
                del copy[key]  # type: ignore[arg-type]
        else:
            copy[key] = forge_json(value[key], rng)  # type: ignore[index,call-overload]
        return copy
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice([-1, 1])
    return rng.choice(VALUES)


def reseal(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The archive with one part changed and every checksum right."""
    reader, stranger = Reader(io.BytesIO(data)), Reader(io.BytesIO(other))
    chunks = [reader.chunk(number) for number in range(len(reader.entries))]
    kinds = [entry.kind.encode() for entry in reader.entries]
    header, index = reader.header, dict(reader.index)
    part, at = rng.randrange(6), rng.randrange(len(chunks))
    if part == 0:
        chunks[at] = mutate_bytes(chunks[at], rng)
    elif part == 1:
        at = rng.choice([i for i, kind in enumerate(kinds) if kind == TILES])
        chunks[at] = forge_chunk(chunks[at], rng)
    elif part == 2:
        chunks[at] = stranger.chunk(rng.randrange(len(stranger.entries)))
    elif part == 3:
        kinds[at] = rng.choice([TILES, CODEC, b"EVIL"])
    elif part == 4:
        forged = forge_json(header, rng)
        header = forged if isinstance(forged, dict) else {}
    file = io.BytesIO()
    writer = Writer(file, header)
    tiles = [entry.tiles for entry in reader.entries]
    for kind, chunk, count in zip(kinds, chunks, tiles, strict=True):
        writer.add(kind, chunk, count)
    index["chunks"] = [[e.kind, e.offset, e.bytes, e.tiles] for e in writer.entries]
    if part == 5:
        forged = forge_json(index, rng)
        index = forged if isinstance(forged, dict) else {}
    return close(writer, file, index)


def close(writer: Writer, file: io.BytesIO, index: dict[str, object]) -> bytes:
    """End an archive with an index whose list of chunks is what it says."""
    forged = index.get("chunks")
    writer.entries[:] = []
    whole = dict(index)
    if isinstance(forged, list) and all(isinstance(c, list) and len(c) == 4 for c in forged):
        writer.entries[:] = [Entry(*chunk) for chunk in forged]
    writer.close(whole)
    return file.getvalue()


class Finding(Exception):
    """Decoding came to what must not be."""


def require(good: object, finding: str) -> None:
    """Raise a Finding unless all is good."""
    if not good:
        raise Finding(finding)


def judge(model: ImageFlow, archive: Archive, data: bytes, forged: bool) -> str:
    """What decoding came to; raises a Finding if it must not be."""
    try:
        found = pictures_of(model, data)
    except ValueError as error:
        require(PARTS.search(str(error)), f"the error names no part: {error}")
        return "refused as a whole"
    errors = [str(picture) for picture in found if isinstance(picture, ValueError)]
    pictures = [picture for picture in found if isinstance(picture, compression.Picture)]
    for error in errors:
        require(PARTS.search(error), f"the error names no part: {error}")
    wrong = [picture.name for picture in pictures if content(picture) not in archive.contents]
    require(not wrong, f"{wrong[:1]} is wrong, unsaid")
    if errors:
        return "some lost by name, the others right"
    require(forged or len(pictures) == len(archive.pictures), "pictures are missing, unsaid")
    return "all right"


def run_block(
    model: ImageFlow, archives: list[Archive], seeds: range, limit: int, pipe: int
) -> None:
    """In a process of its own: a line for each seed before it runs and after."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + limit
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with os.fdopen(pipe, "w", buffering=1) as out:
        for seed in seeds:
            rng = random.Random(seed)
            print(json.dumps([seed, "began"]), file=out)
            signal.alarm(SECONDS_EACH)
            archive, other = archives
            forged = bool(seed % 2)
            try:
                if forged:
                    data = reseal(archive.bytes, other.bytes, rng)
                else:
                    data = mutate_bytes(archive.bytes, rng)
                outcome = judge(model, archive, data, forged)
            except BaseException as error:  # whatever it is, it is a finding
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcome = f"FAILED: {type(error).__name__} at {where.name}: {error}"
            signal.alarm(0)
            print(json.dumps([seed, outcome]), file=out)


def run(model: ImageFlow, archives: list[Archive], args: argparse.Namespace) -> dict[int, str]:
    """The outcome of every seed."""
    outcomes: dict[int, str] = {}
    for first in range(args.seed, args.seed + args.count, args.block):
        left = range(first, min(first + args.block, args.seed + args.count))
        while left:
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                run_block(model, archives, left, args.memory << 20, writing)
                os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as lines:
                outcomes.update(json.loads(line) for line in lines)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            last = max(outcomes)
            if outcomes[last] == "began":
                outcomes[last] = f"FAILED: the process ended with {status}"
            left = range(last + 1, left.stop)
    return outcomes


def main() -> int:
    """Mutate, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutations")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--block", type=int, default=250, help="mutations a process")
    parser.add_argument("--memory", type=int, default=256, help="MiB more than at its start")
    parser.add_argument("--preset", default="flowpp-tiny", choices=list(MODELS), help="model")
    parser.add_argument("--arithmetic", default="exact", choices=["exact", "native"])
    args = parser.parse_args()
    torch.set_num_threads(1)  # a fork has no other threads
    torch.manual_seed(0)
    model = vflow.create_model(args.preset, image_size=8, **MODELS[args.preset]).eval()
    archives = [Archive(model, args.arithmetic, seed) for seed in (0, 1)]
    began = time.perf_counter()
    outcomes = run(model, archives, args)
    seconds = time.perf_counter() - began
    failed = {seed: text for seed, text in outcomes.items() if text.startswith("FAILED")}
    counts = collections.Counter(text for text in outcomes.values() if text not in failed.values())
    print(f"{len(outcomes)} mutations of {len(archives[0].bytes)} bytes in {seconds:.0f} s")
    for text, count in counts.most_common():
        print(f"{count:6} {text}")
    print(f"{len(failed):6} failed")
    for seed, text in list(failed.items())[:20]:
        print(f"  --seed {seed} --count 1: {text}")
    return 1 if failed or len(outcomes) != args.count else 0


if __name__ == "__main__":
    sys.exit(main())
