"""Where a saved model's files are: in a folder, or on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Unpack

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
DATA_SUFFIXES = (".npy", ".npz", ".png", ".jpg", ".jpeg", ".webp", ".gz", ".tar", ".tgz", ".zip")
FILE_SUFFIXES = (*PICKLE_SUFFIXES, *DATA_SUFFIXES, ".json", ".jsonl", ".safetensors", ".txt")
HUB_SECONDS = 10.0
"""How long the Hub has to say whether it has a model."""
RULE = "model must be a folder or a Hub repository"


class NothingThereError(FileNotFoundError):
    """A path of this machine where nothing is."""


class HubOptions(TypedDict, total=False):
    """What is said of a repository on the Hub beside its name."""

    revision: str | None
    """Branch, tag or commit; by default the main branch."""
    token: str | bool | None
    """Access token; by default that of `hf auth login`."""
    cache_dir: str | Path | None
    """Where downloads are kept."""
    local_files_only: bool
    """Take what was downloaded earlier, and do not ask the Hub."""
    force_download: bool
    """Download again what is there already."""


def locate(path: str | Path, **hub: Unpack[HubOptions]) -> tuple[Path, Path]:
    """The config and weights files of a model folder, or of a repository on the Hub.

    The Hub is asked once, without retries, whether it has the model. Where it does not answer,
    what an earlier download left in the cache is taken.

    Args:
        path: The folder, or OWNER/NAME on the Hub.
        hub: `HubOptions`, of no effect for files that are here.

    Raises:
        NothingThereError: If the path can only be of this machine, and nothing is there.
        FileNotFoundError: Naming what is missing.
        ValueError: If the path is that of a file.
    """
    for name in hub:
        if name not in HubOptions.__annotations__:
            raise TypeError(
                f"{name} is no argument; there are {', '.join(HubOptions.__annotations__)}"
            )
    folder = Path(path).expanduser()
    if folder.is_dir():
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} must hold a {name}, but there is none")
        return folder / CONFIG_NAME, folder / WEIGHTS_NAME
    require_no_file(folder)
    if looks_local(path):
        raise NothingThereError(f"{RULE}, but there is no {path}")
    from huggingface_hub import hf_hub_download  # no folder needs it, and it is slow to import

    failure: Exception | None = None
    try:
        if not hub.get("local_files_only"):
            failure = _ask(str(path), hub.get("revision"), hub.get("token"))
        if failure is not None:
            hub = {**hub, "local_files_only": True, "force_download": False}
        config, weights = (
            hf_hub_download(str(path), name, **hub) for name in (CONFIG_NAME, WEIGHTS_NAME)
        )
    # Not OSError alone: what a lost connection raises differs between versions of the Hub's client.
    except Exception as error:
        raise FileNotFoundError(_words(str(path), hub.get("revision"), failure or error)) from error
    return Path(config), Path(weights)


def require_no_file(path: Path) -> None:
    """Raise ValueError if there is a file, saying what it is taken for."""
    if not path.exists() or path.is_dir():
        return
    what = "a file"
    with open(path, "rb") as file:
        start = file.read(9)
    # A safetensors file may begin like a pickle, but goes on with JSON.
    is_pickle = start[:1] == b"\x80" and start[8:] != b"{"
    if path.suffix in PICKLE_SUFFIXES or is_pickle:
        what = f"a file, and a pickle, which is never opened; it must hold {WEIGHTS_NAME}"
    elif path.suffix in DATA_SUFFIXES:
        what = "a file of data"
    raise ValueError(f"{RULE}, but {path} is {what}")


def looks_local(path: str | Path) -> bool:
    """Whether a path that does not exist can only have meant a folder or a file of this machine.

    A repository of ours on the Hub is OWNER/NAME, so a name alone is none.
    """
    text = str(path)
    return (
        text.startswith((".", "/", "~"))
        or text.count("/") != 1
        or "\\" in text
        or text.lower().endswith(("/", *FILE_SUFFIXES))
        or Path(text).parent.is_dir()
    )


def _ask(repository: str, revision: str | None, token: str | bool | None) -> Exception | None:
    """Ask the Hub for a model's config; what went wrong, if it says nothing of it."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, CONFIG_NAME, revision=revision)
    try:
        get_hf_file_metadata(url, token=token, timeout=HUB_SECONDS)
    except (errors.HFValidationError, errors.RevisionNotFoundError, errors.EntryNotFoundError):
        raise
    except Exception as error:
        return error
    return None


def _words(repository: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    reason = " ".join(str(error).split())
    if isinstance(error, errors.HFValidationError):
        return f"{RULE}, but there is no {repository}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"revision must be one of the Hub's {repository}, got {revision!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no folder {repository}, nor has the Hub a model of that name for you"
    if isinstance(error, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        why = "only it was to be looked in (local_files_only)"
    elif isinstance(error, errors.EntryNotFoundError):
        return f"{repository} on the Hub must hold a {CONFIG_NAME} and a {WEIGHTS_NAME}: {reason}"
    else:
        why = f"the Hub did not answer: {reason}"
    return f"there is no folder {repository}, nor is a model of that name in the Hub's cache; {why}"
