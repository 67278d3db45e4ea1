"""Models on disk and on the Hugging Face Hub: config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vflow.files import atomic_path, read_json, write_json

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"

T = TypeVar("T", bound="Pretrained")


class Pretrained(PyTorchModelHubMixin, library_name="vflow", tags=["normalizing-flow"]):
    """Saving and loading of a model whose __init__ takes one config dataclass."""

    config_class: ClassVar[type]
    config: Any

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write config.json, model.safetensors and, unless there is one, a model card.

        Each file is written whole or not at all, the weights before the config.

        Args:
            save_directory: The folder; made if need be.
            repo_id: Repository on the Hub; the folder's name if None.
            push_to_hub: Whether to upload the folder too.
            model_card_kwargs: Values for the model card's template.
            push_to_hub_kwargs: Further arguments of `push_to_hub`.

        Returns:
            The address of the commit on the Hub, None without `push_to_hub`.

        Raises:
            OSError: If the folder cannot be written.
        """
        assert isinstance(self, nn.Module)
        folder = Path(save_directory)
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        with atomic_path(folder / WEIGHTS_NAME) as path:
            save_file(tensors, path, metadata={"format": "pt"})
        fields = dataclasses.asdict(self.config)
        write_json(folder / CONFIG_NAME, {"model": type(self).__name__, **fields})
        if not (folder / CARD_NAME).exists():
            with atomic_path(folder / CARD_NAME) as path:
                self.generate_model_card(**(model_card_kwargs or {})).save(path)
        if not push_to_hub:
            return None
        push_to_hub_kwargs.pop("config", None)  # the mixin's way to the file we write ourselves
        return self.push_to_hub(repo_id=repo_id or folder.name, **push_to_hub_kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[T],
        path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> T:
        """Load a model that `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        Args:
            path: A folder, or a repository id on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub.
            token: Access token for the Hub.
            cache_dir: Where downloads are kept.
            device: Where to load to.

        Raises:
            FileNotFoundError: If there is no such folder or repository, or a file is missing.
            ValueError: If a file is damaged, a pickle, or of another model.
        """
        config_path, weights_path = locate(path, revision, token, cache_dir)
        name, config = read_config(config_path)
        if name != cls.__name__:
            raise ValueError(f"{config_path} must be of a {cls.__name__}, got a {name}")
        model = cls(make_config(cls.config_class, config, config_path))
        assert isinstance(model, nn.Module)
        load_weights(model, weights_path)
        model.eval()
        return model.to(device)


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """The model's class name and the fields of its config.

    Raises:
        ValueError: If the file is no such JSON.
    """
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model"), str):
        raise ValueError(f'{path} must be a JSON object with a "model", got something else')
    return config.pop("model"), config


def make_config(config_class: type, fields: dict[str, Any], path: Path) -> Any:
    """Build a config from JSON, refusing unknown and missing fields.

    A field that models were once saved without has in its metadata what it was "before".

    Raises:
        ValueError: Naming the file and what is wrong.
    """
    known, before = set(), {}
    for field in dataclasses.fields(config_class):
        known.add(field.name)
        if "before" in field.metadata:
            before[field.name] = field.metadata["before"]
    fields = {**before, **fields}
    if fields.keys() != known:
        odd = ", ".join(sorted(fields.keys() ^ known))
        raise ValueError(
            f"{path} must have just the fields of {config_class.__name__}: {odd} differ"
        )
    try:
        return config_class(**fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file of exactly this model's tensors, taking on their precision.

    Raises:
        ValueError: If the file is damaged, no safetensors, or of another model.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file (never a pickle), but it does not "
            f"load: {error}"
        ) from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    came = {name: tuple(value.shape) for name, value in tensors.items()}
    if came != expected:
        names = expected.keys() | came.keys()
        odd = sorted(name for name in names if expected.get(name) != came.get(name))
        first = f"{odd[0]} {came.get(odd[0], 'missing')} for {expected.get(odd[0], 'nothing')}"
        raise ValueError(
            f"{path} must hold the tensors of its config, but {len(odd)} differ: {first}, ..."
        )
    floats = [value for value in tensors.values() if value.is_floating_point()]
    if not all(value.isfinite().all() for value in floats):
        raise ValueError(f"{path} must hold finite numbers, got NaN or infinity")
    model.to(floats[0].dtype)
    model.load_state_dict(tensors)


def locate(
    path: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[Path, Path]:
    """The config and weights files of a model folder, or of a repository on the Hub.

    Raises:
        FileNotFoundError: Naming what is missing.
    """
    folder = Path(path)
    if folder.is_dir():
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} must hold a {name}, but there is none")
        return folder / CONFIG_NAME, folder / WEIGHTS_NAME
    try:
        files = [
            hf_hub_download(str(path), name, revision=revision, token=token, cache_dir=cache_dir)
            for name in (CONFIG_NAME, WEIGHTS_NAME)
        ]
    except HFValidationError as error:
        raise FileNotFoundError(
            f"model must be a folder or a Hub repository, got {path}"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{path} is no folder, and the Hub has no model of that name within reach: {error}"
        ) from error
    return Path(files[0]), Path(files[1])
