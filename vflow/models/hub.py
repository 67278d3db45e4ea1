"""What huggingface_hub does with a model of ours: its card, and its way to the Hub.

Imported with the first of either, for the Hub's client takes as long to import as all of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import PyTorchModelHubMixin

if TYPE_CHECKING:
    from vflow.models.pretrained import Pretrained


class HubModel(PyTorchModelHubMixin, library_name="vflow", tags=["normalizing-flow"]):
    """A model as the Hub's mixin takes it.

    Args:
        model: What is saved.
    """

    def __init__(self, model: Pretrained) -> None:
        self._model = model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        config: None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> str | None:
        """Write the model's folder; `config` is the mixin's way to a file that we write."""
        return self._model.save_pretrained(save_directory, model_card_kwargs=model_card_kwargs)
