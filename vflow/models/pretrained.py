"""Models on disk and on the Hugging Face Hub: config.json and model.safetensors, never a pickle."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from vflow.io import format1, saved_files
from vflow.io.saved_files import CONFIG_NAME, WEIGHTS_NAME, HubOptions, NothingThereError
from vflow.io.weights import load_weights, save_tensors
from vflow.models.tree import ModelConfig, read_tree
from vflow.models.zoo import list_trained_models, trained_folder
from vflow.runtime.files import atomic_path, read_json, write_json

if TYPE_CHECKING:
    from typing_extensions import Unpack


CARD_NAME = "README.md"

T = TypeVar("T", bound="Pretrained")


class Pretrained:
    """Saving and loading of a model whose __init__ takes a `ModelConfig`."""

    config: ModelConfig

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        storage: torch.dtype | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write config.json, model.safetensors and, unless there is one, a model card.

        Each file is written whole or not at all, the weights before the config.

        Args:
            save_directory: The folder; made if need be.
            storage: torch.float16 or torch.bfloat16, for a file of half the size: parameters are
                rounded to it, and have the model's precision again once loaded. The likelihood is
                then that of the rounded model, exactly.
            repo_id: Repository on the Hub; the folder's name if None.
            push_to_hub: Whether to upload the folder too.
            model_card_kwargs: Values for the model card's template.
            push_to_hub_kwargs: Further arguments of `push_to_hub`.

        Returns:
            The address of the commit on the Hub, None without `push_to_hub`.

        Raises:
            OSError: If the folder cannot be written.
            ValueError: If `storage` is another, or too narrow for a parameter.
        """
        assert isinstance(self, nn.Module)
        folder = Path(save_directory)
        file = folder / WEIGHTS_NAME
        with atomic_path(file) as path:
            save_tensors(self.state_dict(), path, file, storage)
        write_json(folder / CONFIG_NAME, self.config.to_tree())
        if not (folder / CARD_NAME).exists():
            with atomic_path(folder / CARD_NAME) as path:
                from vflow.models.hub import HubModel

                HubModel(self).generate_model_card(**(model_card_kwargs or {})).save(path)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, **push_to_hub_kwargs)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model to the Hugging Face Hub, with what `save_pretrained` writes.

        Args:
            repo_id: OWNER/NAME; made if need be.
            options: What `PyTorchModelHubMixin.push_to_hub` of huggingface_hub takes, as
                `commit_message`, `private`, `token` and `branch`.

        Returns:
            The address of the commit.
        """
        from vflow.models.hub import HubModel

        return str(HubModel(self).push_to_hub(repo_id, **options))

    @classmethod
    def from_pretrained(
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
    load_weights(model, weights_path, format1.renaming(config.to_tree()), strict)
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


def locate(path: str | Path, **hub: Unpack[HubOptions]) -> tuple[Path, Path]:
    """The config and weights files of a model, by the name of a trained one too.

    Args:
        path: A folder, the name of a trained model that comes with the package, or OWNER/NAME on
            the Hub.
        hub: `HubOptions`, of no effect for files that are here.

    Raises:
        FileNotFoundError: Naming what is missing.
        ValueError: If the path is that of a file.
    """
    trained = None if Path(path).expanduser().is_dir() else trained_folder(path)
    try:
        return saved_files.locate(trained or path, **hub)
    except NothingThereError as error:
        raise FileNotFoundError(f"{error}{_hint(path)}") from None


def load_saved(path: str | Path, strict: bool = True, **hub: Unpack[HubOptions]) -> Any:
    """Load a saved model of whatever class its config.json tells, in evaluation mode.

    Args:
        path: As `locate` has it.
        strict: As `Pretrained.from_pretrained` has it.
        hub: Likewise.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or a file is missing.
        ValueError: If a file is damaged, a pickle, or of an unknown kind.
    """
    config_path, weights_path = locate(path, **hub)
    return open_saved(read_config(config_path), weights_path, strict)


def _hint(path: str | Path) -> str:
    """A folder or a trained model of nearly that name, or the preset that it is the name of."""
    from vflow.models.presets import list_models  # presets are of models, which are located

    if str(path) in list_models():
        return f" ({path} is a preset, which vflow.create_model makes untrained)"
    parent = Path(path).expanduser().absolute().parent
    if not parent.is_dir():
        return ""
    names = [entry.name for entry in parent.iterdir() if entry.is_dir()]
    if parent == Path.cwd():
        names += list_trained_models()
    close = difflib.get_close_matches(Path(path).name, names, 1)
    return f" (did you mean {Path(path).parent / close[0]}?)" if close else ""
