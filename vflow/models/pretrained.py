"""Models on disk and on the Hugging Face Hub: config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vflow.files import atomic_path, read_json, write_json
from vflow.io import format1
from vflow.models.saved_files import CONFIG_NAME, WEIGHTS_NAME, HubOptions, locate
from vflow.models.tree import ModelConfig, read_tree

if TYPE_CHECKING:
    from typing_extensions import Unpack


CARD_NAME = "README.md"

T = TypeVar("T", bound="Pretrained")


class Pretrained(PyTorchModelHubMixin, library_name="vflow", tags=["normalizing-flow"]):
    """Saving and loading of a model whose __init__ takes a `ModelConfig`."""

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
            try:
                save_file(tensors, path, metadata={"format": "pt"})
            except SafetensorError as error:  # which a full disk is to it
                raise OSError(f"{folder / WEIGHTS_NAME} could not be written: {error}") from error
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
        pretrained_model_name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        map_location: str | torch.device | None = None,
        strict: bool = True,
        **hub: Unpack[HubOptions],
    ) -> T:
        """Load a model that `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A folder, the name of a trained model that comes with the
                package, or a repository id on the Hugging Face Hub.
            device: Where to load to; by default the CPU.
            map_location: `device`, by the name that the Hub's models take it under.
            strict: Whether the file must hold just this model's tensors. If not, those of its
                tensors that the model has are loaded, in their shapes, and a warning names the
                others.
            hub: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`, as
                everything on the Hub takes them (see `HubOptions`); a folder needs none.

        Raises:
            FileNotFoundError: If there is no such folder or repository, or a file is missing.
            ValueError: If a file is damaged, a pickle, or of another model.
        """
        from vflow.models.classes import class_of  # which imports this file

        device = choose_device(device, map_location)
        config_path, weights_path = locate(pretrained_model_name_or_path, **hub)
        config = read_config(config_path)
        found = class_of(config)
        if not issubclass(found, cls):
            raise ValueError(f"{config_path} must be of a {cls.__name__}, got a {found.__name__}")
        model: T = open_saved(config, weights_path, strict).to(device)
        return model


def choose_device(
    device: str | torch.device | None, map_location: str | torch.device | None
) -> torch.device:
    """The one device that the two arguments mean, by default the CPU.

    Raises:
        ValueError: If they differ, or one names none.
    """
    given = {}
    for name, value in (("device", device), ("map_location", map_location)):
        if value is None:
            continue
        try:
            given[name] = torch.device(value)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{name} must name a device, got {value!r}") from error
    if len(set(given.values())) > 1:
        raise ValueError(f"map_location must be device where both are given, got {given}")
    return next(iter(given.values()), torch.device("cpu"))


def open_saved(config: ModelConfig, weights_path: Path, strict: bool = True) -> Any:
    """Make a model of what was saved of it, in evaluation mode on the CPU.

    Every saved model comes this way, those of a checkpoint too.

    Args:
        config: Its config.
        weights_path: Its tensors, .safetensors.
        strict: As `Pretrained.from_pretrained` has it.

    Raises:
        ValueError: If the file is damaged or does not fit; names it.
    """
    from vflow.models.classes import make_model  # which imports this file

    model = make_model(config)
    load_weights(model, weights_path, strict)
    model.eval()
    return model


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


def load_weights(model: nn.Module, path: Path, strict: bool = True) -> None:
    """Load a safetensors file of this model's tensors, taking on their precision.

    Args:
        model: The model.
        path: The file.
        strict: As `Pretrained.from_pretrained` has it.

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
    odd = sorted(n for n in expected.keys() | came.keys() if expected.get(n) != came.get(n))
    if odd:
        first = f"{odd[0]} {came.get(odd[0], 'missing')} for {expected.get(odd[0], 'nothing')}"
        differ = f"{len(odd)} differ: {first}{', ...' * (len(odd) > 1)}"
        if strict or any(name in expected and name in came for name in odd):
            raise ValueError(f"{path} must hold the tensors of its config, but {differ}")
        warnings.warn(f"{path} is loaded in part: of its tensors {differ}", stacklevel=3)
    floats = [value for value in tensors.values() if value.is_floating_point()]
    if not floats or not all(value.isfinite().all() for value in floats):
        came_instead = "NaN or infinity" if floats else "none"
        raise ValueError(f"{path} must hold finite numbers, got {came_instead}")
    model.to(floats[0].dtype)
    model.load_state_dict(tensors, strict=strict)
