"""`vflow compress`, `vflow decompress` and `vflow list`."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from vflow.compression.chunk import MAX_BATCH, ChunkInfo
from vflow.compression.compare import measure_codecs
from vflow.compression.identity import ARITHMETICS
from vflow.compression.index import MAX_CHUNK_TILES
from vflow.compression.pictures import output_name, write_picture
from vflow.compression.reader import ArchiveReader
from vflow.compression.sources import Sources
from vflow.compression.writer import CHUNK_TILES, MOST_AT_ONCE, ArchiveWriter
from vflow.io.fields import require_choice, require_int
from vflow.models import ImageFlow
from vflow.models.loading import load_image_model
from vflow.models.zoo import trained_folder
from vflow.runtime.extras import tyro
from vflow.runtime.files import atomic_path, require_output
from vflow.runtime.memory import keep_freed_memory
from vflow.runtime.progress import progress_bar

SUFFIX = ".vflow"


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """Compress pictures or a data set, without loss, with a trained model."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A trained model by name (`vflow models`), the folder of a training run or of a model, or a
    repository of the Hugging Face Hub."""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGES")] = ()
    """Picture files, and folders of them; 8-bit grey or RGB, with or without alpha."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("archive.vflow")
    """The archive, .vflow."""
    data: str | None = None
    """Instead of pictures, a data set, as `vflow train` names it."""
    split: Literal["train", "test"] = "test"
    """Of the data set."""
    data_root: Path | None = None
    """Folder of downloaded data sets."""
    count: int | None = None
    """Of the data set the first so many images; by default all."""
    arithmetic: Literal["exact", "native"] = "exact"
    """exact: decodes on every machine; native: on this one, for networks that exact lacks."""
    verify: bool = True
    """Whether the archive is decoded and compared before it gets its name."""
    compare: bool = False
    """Whether PNG, WebP and, where imagecodecs or cjxl is, JPEG XL are measured on the same."""
    batch_size: int = MOST_AT_ONCE
    """Most tiles at once: more are faster, and take more memory."""
    chunk: int = CHUNK_TILES
    """Tiles of a chunk; a damaged chunk is lost, and no other."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        require_choice("arithmetic", self.arithmetic, ARITHMETICS)
        require_choice("split", self.split, ("train", "test"))
        require_int("chunk", self.chunk, 1)
        if self.chunk > MAX_CHUNK_TILES:
            raise ValueError(f"chunk must be at most {MAX_CHUNK_TILES}, got {self.chunk}")
        require_int("batch_size", self.batch_size, 1)
        if self.batch_size > MAX_BATCH:
            raise ValueError(f"batch_size must be at most {MAX_BATCH}, got {self.batch_size}")
        if self.count is not None:
            require_int("count", self.count, 1)
        if bool(self.images) == (self.data is not None):
            got = "both" if self.images else "neither"
            raise ValueError(f"compress needs pictures, or a data set by --data, got {got}")


@dataclass(frozen=True, kw_only=True)
class DecompressConfig:
    """Decompress an archive."""

    archive: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ARCHIVE")]
    """The archive, .vflow."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """A folder, for PNG files by their names; or an .npy file, for images of one size."""
    model: str | None = None
    """The model it was written with; by default the folder or the trained model that it names, if
    that is there."""
    salvage: bool = False
    """Whether to write what can be decoded of a damaged archive; by default that is an error."""


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Tell what is in an archive; needs no model."""

    archive: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ARCHIVE")]
    """The archive, .vflow."""


def compress(config: CompressConfig) -> dict[str, Any]:
    """Write an archive.

    Args:
        config: What of, with what, and where to.

    Returns:
        What the command reports: images, values, bytes, bits_per_dim, seconds, by --verify
        verify_seconds, and by --compare the bytes and seconds of other codecs.

    Raises:
        ValueError: If a picture, the model or an argument is not what it should be.
        OSError: If something cannot be read or written.
    """
    require_output("out", Path(config.out), SUFFIX)
    keep_freed_memory()
    model = load_image_model(config.model, say=True)
    pictures = Sources(
        model, config.images, config.data, config.split, config.data_root, config.count
    )
    with atomic_path(config.out) as temporary:
        began = time.perf_counter()
        with open(temporary, "wb") as file, progress_bar(pictures.tiles, "tile") as bar:
            bar.set_description("compress", refresh=False)
            writer = ArchiveWriter(
                file,
                model,
                arithmetic=config.arithmetic,
                chunk_tiles=config.chunk,
                batch=config.batch_size,
                model_name=str(config.model),
                progress=bar.update,
            )
            pictures.add_to(writer)
            size = writer.close()
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        if config.verify:
            _verify(temporary, model, pictures)
        verify_seconds = time.perf_counter() - began
    results: dict[str, Any] = {
        "images": pictures.count,
        "values": pictures.values,
        "bytes": size,
        "bits_per_dim": 8 * size / pictures.values,
        "seconds": seconds,
    }
    if config.verify:
        results["verify_seconds"] = verify_seconds
    if config.compare:
        results["codecs"] = measure_codecs(pictures.arrays())
    return results


def summary(results: dict[str, Any]) -> str:
    """The results of `compress` as a reader likes them."""
    count, values, seconds = results["images"], results["values"], results["seconds"]
    lines = [
        f"{count:,} images, {results['bytes']:,} bytes, {results['bits_per_dim']:.4f} bits/dim, "
        f"{count / seconds:.1f} images/s, {values / seconds / 1e6:.3f} MB/s"
    ]
    if "verify_seconds" in results:
        lines[0] += f"; decoded and compared at {values / results['verify_seconds'] / 1e6:.3f} MB/s"
    for name, codec in results.get("codecs", {}).items():
        lines.append(
            f"  {name}: {codec.bytes:,} bytes, {8 * codec.bytes / values:.4f} bits/dim, "
            f"{codec.seconds:.1f} s, {values / codec.seconds / 1e6:.3f} MB/s"
        )
    return "\n".join(lines)


def decompress(config: DecompressConfig) -> tuple[int, list[str]]:
    """Write what is in an archive.

    Args:
        config: Which, and where to.

    Returns:
        How many images were written and, with `salvage`, what was lost.

    Raises:
        ValueError: If the archive is damaged or of another model.
        OSError: If something cannot be read or written.
    """
    keep_freed_memory()
    with open(config.archive, "rb") as file:
        try:
            listed = ArchiveReader(file)
            model = _model_of(config, listed)
            with progress_bar(listed.tiles, "tile") as bar:
                bar.set_description("decompress", refresh=False)
                reader = ArchiveReader(file, model, bar.update)
                if config.out.suffix.lower() == ".npy":
                    return _write_array(reader, config.out), []
                return _write_pictures(reader, config)
        except ValueError as error:
            raise ValueError(f"{config.archive}: {error}") from error


def describe(config: ListConfig) -> str:
    """What is in an archive, for `vflow list`.

    Raises:
        ValueError: If it is no archive, or its header or index is damaged.
        OSError: If it cannot be read.
    """
    with open(config.archive, "rb") as file:
        try:
            reader = ArchiveReader(file)
            infos = list(reader.infos())
        except ValueError as error:
            raise ValueError(f"{config.archive}: {error}") from error
    model = reader.header["model"]
    values = sum(_values_of(entry, reader.shape) for entry in reader.entries)
    lines = [
        f"{config.archive}: {reader.bytes:,} bytes, {8 * reader.bytes / values:.4f} bits/dim",
        f"model: {model.get('class')} of {'x'.join(map(str, reader.shape))}, "
        f"digest {model['digest']}" + (f", {model['name']}" if model.get("name") else ""),
        f"arithmetic: {reader.header['arithmetic']}",
    ]
    for number, info in infos:
        lines.append(f"chunk {number}: {_about(info)}")
    for entry in reader.entries:
        if "set" in entry:
            lines.append(f"{entry['count']:,} images of {entry['set'] or 'a set'}")
        else:
            alpha = "A" * ("alpha" in entry)
            height, width = entry["size"]
            lines.append(f"{entry['name']}: {width}x{height} {entry['mode']}{alpha}")
    return "\n".join(lines)


def _about(info: ChunkInfo | ValueError) -> str:
    if isinstance(info, ValueError):
        return f"damaged: {info}"
    borrowed = info.first_bytes + info.lent_bytes
    return (
        f"{info.tiles:,} tiles, {info.bytes:,} bytes, up to {info.batch} at once; "
        f"{borrowed:,} bytes borrowed to begin with and returned by decoding: "
        f"{info.first_bytes:,} are the first {info.first_tiles} tiles by an ordinary codec, "
        f"{info.lent_bytes:,} were lent"
    )


def _verify(path: Path, model: ImageFlow, sources: Sources) -> None:
    with open(path, "rb") as file, progress_bar(sources.tiles, "tile") as bar:
        bar.set_description("verify", refresh=False)
        reader = ArchiveReader(file, model, bar.update)
        count = 0
        for found, picture in zip(reader.pictures(), sources.pictures(), strict=True):
            if isinstance(found, ValueError):
                raise RuntimeError(f"the archive does not decode: {found}")
            same = np.array_equal(found.pixels, picture.pixels)
            if found.alpha is None or picture.alpha is None:
                same = same and found.alpha is picture.alpha
            else:
                same = same and np.array_equal(found.alpha, picture.alpha)
            if not same:
                raise RuntimeError(f"the archive does not decode to {picture.name}")
            count += 1
        assert count == sources.count


def _model_of(config: DecompressConfig, listed: ArchiveReader) -> ImageFlow:
    about = listed.header["model"]
    if config.model is not None:
        return load_image_model(config.model)
    name = about.get("name")
    if isinstance(name, str) and name and (Path(name).is_dir() or trained_folder(name)):
        return load_image_model(name)
    called = f", {name!r} when it was written" if name else ""
    raise ValueError(
        f"it needs the {about.get('class')} of digest {about['digest'][:16]}{called}: "
        "name its folder or repository by --model"
    )


def _write_array(reader: ArchiveReader, out: Path) -> int:
    images = reader.images()
    with atomic_path(out) as temporary:
        np.save(temporary, images)
    return len(images)


def _write_pictures(reader: ArchiveReader, config: DecompressConfig) -> tuple[int, list[str]]:
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out must be a folder or an .npy file, but {out} is a file")
    names = [entry["name"] for entry in reader.entries if "name" in entry]
    if len({output_name(name) for name in names}) < len(names):
        raise ValueError("two pictures have one name")
    if not config.salvage:
        for number, info in reader.infos():
            if isinstance(info, ValueError):
                raise ValueError(f"chunk {number} is damaged (--salvage writes the others): {info}")
    count, lost = 0, []
    for found in reader.pictures():
        if isinstance(found, ValueError):
            if not config.salvage:
                raise found
            lost.append(str(found))
            continue
        write_picture(found, out)
        count += 1
    return count, lost


def _values_of(entry: dict[str, Any], shape: tuple[int, int, int]) -> int:
    if "set" in entry:
        return int(entry["count"]) * math.prod(shape)
    height, width = entry["size"]
    channels = (1 if entry["mode"] == "L" else 3) + ("alpha" in entry)
    return int(height) * int(width) * channels
