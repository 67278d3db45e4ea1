"""Models on disk and on the Hugging Face Hub: config.json and model.safetensors, never a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vflow.files import atomic_path, read_json, write_json
from vflow.io import format1
from vflow.models.tree import ModelConfig, read_tree

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"

T = TypeVar("T", bound="Pretrained")


class Pretrained(PyTorchModelHubMixin, library_name="vflow", tags=["normalizing-flow"]):
    """Saving and loading of a model whose __init__ takes a `ModelConfig`."""

    config_class: ClassVar[type] = ModelConfig
    config: ModelConfig

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
        write_json(folder / CONFIG_NAME, self.config.to_tree())
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
        from vflow.models.classes import class_of  # which imports this file

        config = read_config(config_path)
        found = class_of(config)
        if not issubclass(found, cls):
            raise ValueError(f"{config_path} must be of a {cls.__name__}, got a {found.__name__}")
        model: Any = found(config)
        load_weights(model, weights_path)
        model.eval()
        return model.to(device)


def take_old_names(model: Pretrained, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the tensors of a state that was saved in an older format the names of today."""
    rename = format1.renaming(model.config.to_tree())
    for name in list(state):
        if name.startswith(prefix):
            state[prefix + rename(name.removeprefix(prefix))] = state.pop(name)


def read_config(path: Path) -> ModelConfig:
    """The config that a config.json holds, of whatever format.

    Raises:
        ValueError: If the file is no such JSON, or a value is out of range.
    """
    return read_tree(read_json(path), str(path))


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
    rename = format1.renaming(model.config.to_tree())  # type: ignore[union-attr, operator]
    tensors = {rename(name): value for name, value in tensors.items()}
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
