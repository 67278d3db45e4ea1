"""Damaged and forged archives: an error that names the chunk, or the very pictures."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest

from tests.compression.conftest import smooth_images
from vflow import compression
from vflow.cli import main
from vflow.compression import container
from vflow.compression.chunk import MAX_BATCH, MAX_GROWTH, decode_chunk, encode_chunk
from vflow.compression.identity import arithmetic
from vflow.compression.pictures import Picture

IMAGES = smooth_images(48)
PIXELS = IMAGES.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def archive(model):
    """Three chunks of 16 images, and a picture with alpha."""
    return archive_of(model, 16)


def archive_of(model, chunk_tiles: int) -> bytes:
    file = io.BytesIO()
    writer = compression.ArchiveWriter(file, model, chunk_tiles=chunk_tiles, batch=8)
    writer.add_images(PIXELS[: 3 * chunk_tiles], "set")
    writer.add_picture(Picture("a.png", PIXELS[0], PIXELS[1, ..., 0]))
    writer.close()
    return file.getvalue()


def outcome(model, data: bytes) -> list[Picture | ValueError]:
    return list(compression.ArchiveReader(io.BytesIO(data), model).pictures())


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, insert, splice, or put a large number where four or eight bytes are."""
    mutated = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 3])):
        at, kind = rng.randrange(len(mutated)), rng.randrange(6)
        if kind == 0:
            mutated[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            mutated = mutated[: max(1, at)]
        elif kind == 2:
            mutated[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 3:
            other = rng.randrange(len(mutated))
            mutated[at : at + 64] = mutated[other : other + 64]
        elif kind == 4:
            size = rng.choice([4, 8])
            mutated[at : at + size] = rng.choice([b"\xff", b"\0", b"\x7f"]) * size
        else:
            del mutated[at : at + rng.randrange(1, 40)]
    return bytes(mutated)


def test_mutated_archives(model):
    archive = archive_of(model, 3)
    whole = outcome(model, archive)
    for seed in range(400):
        data = mutate(archive, random.Random(seed))
        if data == archive:
            continue
        try:
            found = outcome(model, data)
        except ValueError:
            continue
        for picture in found:
            if isinstance(picture, ValueError):
                assert "chunk " in str(picture) or "lost" in str(picture) or "set" in str(picture)
            else:
                twins = [other for other in whole if other.name == picture.name]
                assert any(np.array_equal(picture.pixels, twin.pixels) for twin in twins)


def test_forged_chunks_whose_checksums_are_right(model):
    """What the checksum does not tell, the stacks, the bounds and the pixels' digest do."""
    with arithmetic(model, "exact"):
        data = encode_chunk(model, PIXELS[:16], 4)
        assert np.array_equal(decode_chunk(model, data, 16), PIXELS[:16])
        refused = 0
        for seed in range(150):
            forged = mutate(data, random.Random(seed))
            try:
                found = decode_chunk(model, forged, 16)
            except ValueError:
                refused += 1
                continue
            assert np.array_equal(found, PIXELS[:16])
        assert refused > 140


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        *[(0, 1 << 31), (4, 17), (4, 1 << 31), (8, 0), (8, MAX_BATCH + 1)],
        *[(12, 0), (12, MAX_GROWTH + 1), (16, 1 << 31), (44, 1 << 31)],
    ],
    ids=[
        *["tiles", "first", "many first", "no batch", "a large batch"],
        *["no growth", "a large growth", "blob", "words"],
    ],
)
def test_forged_numbers_of_a_chunk(model, offset, value):
    with arithmetic(model, "exact"):
        forged = bytearray(encode_chunk(model, PIXELS[:16], 4))
        struct.pack_into("<I", forged, offset, value)
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
            decode_chunk(model, bytes(forged), 16)


def rewritten(archive: bytes, change) -> bytes:
    """The archive with its index changed, all checksums right."""
    reader = container.Reader(io.BytesIO(archive))
    file = io.BytesIO()
    writer = container.Writer(file, reader.header)
    for number, entry in enumerate(reader.entries):
        writer.add(entry.kind.encode(), reader.chunk(number), entry.tiles)
    index = dict(reader.index)
    change(index["pictures"], writer.entries)
    writer.close(index)
    return file.getvalue()


def test_rewriting_changes_nothing(archive):
    assert rewritten(archive, lambda pictures, chunks: None) == archive


@pytest.mark.parametrize(
    "change",
    [
        lambda p, c: p[0].update(count=1 << 39),
        lambda p, c: p[0].update(tile=40),
        lambda p, c: p[0].update(count=True),
        lambda p, c: p[0].update(digests=3),
        lambda p, c: p[0].update(digests=[3, 3, 3]),
        lambda p, c: p[1].pop("digest"),
        lambda p, c: p[1].update(size=[1 << 30, 1 << 30]),
        lambda p, c: p[1].update(size=[8]),
        lambda p, c: p[1].update(size=[0, 8]),
        lambda p, c: p[1].update(mode="CMYK"),
        lambda p, c: p[1].update(name=7),
        lambda p, c: p[1].update(alpha=0),
        lambda p, c: p[1].update(alpha=99),
        lambda p, c: p[1].pop("tile"),
        lambda p, c: p.append("picture"),
        lambda p, c: c.__setitem__(0, container.Entry("TILE", 0, 10, 1 << 30)),
        lambda p, c: c.__setitem__(0, container.Entry("EVIL", 0, 10, 1)),
    ],
)
def test_forged_indices_are_refused_at_once(archive, change):
    with pytest.raises(ValueError, match="index"):
        compression.ArchiveReader(io.BytesIO(rewritten(archive, change)))


def test_a_damaged_chunk_costs_itself_and_is_named(model, folder, archive, tmp_path, capsys):
    reader = container.Reader(io.BytesIO(archive))
    damaged = bytearray(archive)
    for number in (1, 3):  # of images 16 to 31, and an alpha
        damaged[reader.entries[number].offset + 60] ^= 4
    found = outcome(model, bytes(damaged))
    errors = [str(picture) for picture in found if isinstance(picture, ValueError)]
    pictures = [picture for picture in found if isinstance(picture, Picture)]
    assert any("chunk 1: the chunk is damaged: its checksum differs" in error for error in errors)
    assert [picture.name for picture in pictures] == [
        f"{i:02}.png" for i in (*range(16), *range(32, 48))
    ]
    assert all(np.array_equal(p.pixels, PIXELS[int(p.name[:2])]) for p in pictures)
    assert any("a.png is lost: chunk 3" in error for error in errors)

    path, out = tmp_path / "a.vflow", tmp_path / "out"
    path.write_bytes(damaged)
    arguments = ["decompress", str(path), "-o", str(out), "--model", str(folder)]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "chunk 1 is damaged (--salvage writes the others)" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(SystemExit):
        main([*arguments, "--salvage"])
    captured = capsys.readouterr()
    assert "lost: " in captured.err
    assert len(list(out.glob("*.png"))) == 32
    main(["list", str(path)])
    assert "chunk 1: damaged: " in capsys.readouterr().out


def test_names_do_not_lead_out_of_the_folder(model, folder, tmp_path, capsys):
    for name in ("../evil.png", "/tmp/evil.png", "a/../../evil.png", "nul\0.png"):
        file = io.BytesIO()
        writer = compression.ArchiveWriter(file, model)
        writer.add_picture(Picture(name, PIXELS[0]))
        writer.close()
        path = tmp_path / "a.vflow"
        path.write_bytes(file.getvalue())
        with pytest.raises(SystemExit):
            main(["decompress", str(path), "-o", str(tmp_path / "out"), "--model", str(folder)])
        assert "leads out of" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.vflow"]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 15, 16, 40, 80])
def test_short_files(length, archive):
    with pytest.raises(ValueError, match=r"no vflow archive|cut short"):
        compression.ArchiveReader(io.BytesIO(archive[:length]))


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_says_so(archive, version):
    other = archive[:8] + struct.pack("<I", version) + archive[12:]
    with pytest.raises(ValueError, match=f"an archive of version {version}, this vflow reads 2"):
        compression.ArchiveReader(io.BytesIO(other))


@pytest.mark.parametrize(("stored", "version"), [("exact", 1), ("exact 3", 3)])
def test_exact_arithmetic_of_another_version_is_refused(model, archive, stored, version):
    """By name, before anything is decoded; what is in the archive can still be listed."""
    reader, file = container.Reader(io.BytesIO(archive)), io.BytesIO()
    writer = container.Writer(file, {**reader.header, "arithmetic": stored})
    for number, entry in enumerate(reader.entries):
        writer.add(entry.kind.encode(), reader.chunk(number), entry.tiles)
    writer.close(dict(reader.index))
    assert len(list(compression.ArchiveReader(file).infos())) == 4
    expected = rf"in exact arithmetic of version {version}, .* computes that of version 2"
    with pytest.raises(ValueError, match=expected):
        compression.ArchiveReader(file, model)


def test_a_chunk_of_another_archive_gives_no_picture(model, archive):
    """It decodes, and all checksums are right; what the index says of the set's images is not."""
    with arithmetic(model, "exact"):
        stranger = encode_chunk(model, PIXELS[32:48], 8)
    reader, file = container.Reader(io.BytesIO(archive)), io.BytesIO()
    writer = container.Writer(file, reader.header)
    for number, entry in enumerate(reader.entries):
        writer.add(
            entry.kind.encode(), stranger if number == 1 else reader.chunk(number), entry.tiles
        )
    writer.close(dict(reader.index))
    found = outcome(model, file.getvalue())
    wanted = outcome(model, archive)
    assert str(found[16]) == "images 16 to 31 are lost: they are not what was compressed"
    kept = [*wanted[:16], *wanted[32:]]
    for picture, other in zip([*found[:16], *found[17:]], kept, strict=True):
        assert picture.name == other.name
        assert np.array_equal(picture.pixels, other.pixels)


def test_a_header_that_unpacks_to_gigabytes_is_refused(archive, monkeypatch):
    monkeypatch.setattr(container, "MAX_TEXT", 100)
    with pytest.raises(ValueError, match="too long"):
        compression.ArchiveReader(io.BytesIO(archive))
