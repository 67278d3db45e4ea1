"""`vflow fid`: how far samples are from a data set, in the features of a network.

FID (Heusel et al., 2017) and KID (Binkowski et al., 2018) are torchmetrics' (`pip install
'vflow[fid]'`). FID falls with the number of samples, so only figures of equal numbers, of the same
data and the same features, compare. KID is unbiased.
"""

from __future__ import annotations

import importlib
import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from vflow.data import images_digest, images_of_shape
from vflow.evaluate.evaluation import model_digest
from vflow.io.fields import require_choice, require_int, require_seed, take_plain_numbers
from vflow.models.checks import require_temperature
from vflow.models.loading import load_image_model
from vflow.runtime.distributed import Ranks
from vflow.runtime.extras import require, tyro
from vflow.runtime.files import require_output, write_json
from vflow.runtime.progress import progress_bar
from vflow.sample import draw_samples

INCEPTION = "inception"
INCEPTION_FEATURES = "2048"
KID_SUBSETS = 100
KID_SUBSET = 1000
"""Images of a subset, or all of the smaller set."""


@dataclass(frozen=True, kw_only=True)
class FidConfig:
    """Measure FID and KID of a model's samples against a data set; needs vflow[fid]."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A trained model by name (`vflow models`), the folder of a training run or of a model, or a
    repository of the Hugging Face Hub."""
    data: str
    """Data set, as for `vflow train`."""
    split: Literal["train", "val", "test"] = "train"
    """Which of its images."""
    images: int | None = None
    """How many of them, from the first; by default all."""
    samples: int = 10_000
    """Samples of a set."""
    sets: int = 3
    """Sets of samples, for the spread; set i is drawn with the seed + i."""
    features: str = INCEPTION
    """What looks at the images: "inception", the usual network with the usual weights (which
    torch-fidelity downloads); "timm:NAME", a network of timm; or "MODULE:NAME", a function of yours
    that gives a module from uint8 [B, 3, H, W] to [B, D]."""
    temperature: float = 1.0
    """Standard deviation of the latent."""
    batch_size: int = 64
    """Images at once."""
    data_root: Path | None = None
    """Folder where data sets are kept or downloaded to."""
    out: Path = Path("fid.json")
    """The results, .json."""
    seed: int = 0
    """Seed of the samples and of KID's subsets."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is any."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        take_plain_numbers(self)
        for name, least in (("samples", 2), ("sets", 1), ("batch_size", 1)):
            require_int(name, getattr(self, name), least)
        if self.images is not None:
            require_int("images", self.images, 2)
        require_choice("split", self.split, ("train", "val", "test"))
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        require_temperature(self.temperature)
        require_seed(self.seed)


def fid(config: FidConfig) -> dict[str, Any]:
    """Draw the samples, measure, and write the results.

    Args:
        config: What to measure, and how.

    Returns:
        What the file holds: "fid" and "kid", each with its mean over the sets, its standard
        deviation between them (None for one set) and the sets' values.

    Raises:
        ValueError: If the config does not fit the model or the data.
        OSError: If something cannot be read or written, or the features cannot be had.
    """
    require_output("out", config.out, ".json")
    device = Ranks().device(config.device)
    network = feature_network(config.features).to(device).eval()
    model = load_image_model(config.model, device, say=True)
    images = images_of_shape(config.data, config.split, model.data_shape, config.data_root)
    if config.images is not None and config.images > len(images):
        raise ValueError(f"images must be at most {len(images)}, got {config.images}")
    images = images[: config.images]
    known = features_of(network, images, config.batch_size)
    fids, kids = [], []
    for number in range(config.sets):
        seed = config.seed + number
        samples = draw_samples(
            model, config.samples, config.temperature, seed, config.batch_size, progress=True
        )
        drawn = features_of(network, samples, config.batch_size)
        fids.append(frechet_distance(known, drawn))
        kids.append(kernel_distance(known, drawn, seed))
    results = {
        "model": config.model,
        "data": config.data,
        "split": config.split,
        "images": len(images),
        "samples": config.samples,
        "features": config.features,
        "temperature": config.temperature,
        "seed": config.seed,
        "fid": _over_sets(fids),
        "kid": _over_sets(kids),
        "digests": {"model": model_digest(model), "images": images_digest(images)},
    }
    write_json(config.out, results)
    return results


def summary(results: dict[str, Any]) -> str:
    """The results in two lines."""
    what = f"{results['samples']:,} samples, {results['images']:,} images, {results['features']}"
    lines = []
    for name, digits in (("fid", 2), ("kid", 5)):
        found = results[name]
        spread = "" if found["std"] is None else f" ± {found['std']:.{digits}f} between sets"
        lines.append(f"{name.upper()}  {found['mean']:.{digits}f}{spread}")
    return f"{lines[0]}  ({what})\n{lines[1]}"


def feature_network(name: str) -> nn.Module:
    """The network that a name means, from uint8 [B, 3, H, W] to features [B, D].

    Raises:
        ValueError: If the name means none.
        OSError: If what it needs is not installed, or its weights cannot be had.
    """
    if name == INCEPTION:
        return _inception()
    home, _, rest = name.partition(":")
    if not rest:
        raise ValueError(f"features must be {INCEPTION}, timm:NAME or MODULE:NAME, got {name!r}")
    if home == "timm":
        return _Timm(rest)
    try:
        made = getattr(importlib.import_module(home), rest)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"features must name a function that is there: {error}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"features must give a module, but {name} gives a {type(made).__name__}")
    return made


@torch.inference_mode()
def features_of(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Features [N, D] of uint8 images [N, C, H, W], C = 3 or 1 (shown as grey); float64, CPU.

    Raises:
        ValueError: If the images have other channels, or the features another shape.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {images.shape[1]}")
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    parts = []
    with progress_bar(len(images), "feature") as bar:
        for batch in images.expand(-1, 3, -1, -1).split(batch_size):
            found = network(batch.to(device))
            if found.shape[:1] != batch.shape[:1] or found.ndim != 2:
                raise ValueError(f"features must be [{len(batch)}, D], got {tuple(found.shape)}")
            parts.append(found.double().cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def frechet_distance(known: Tensor, drawn: Tensor) -> float:
    """FID of two sets of features [N, D]: the Frechet distance of Gaussians fitted to them."""
    metric = _metrics().image.fid.FrechetInceptionDistance(feature=_Given(known.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(known, real=True)
    metric.update(drawn, real=False)
    return float(metric.compute())


def kernel_distance(known: Tensor, drawn: Tensor, seed: int = 0) -> float:
    """KID of two sets of features [N, D]: the mean over subsets that the seed draws."""
    size = min(KID_SUBSET, len(known), len(drawn))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        metric = _metrics().image.kid.KernelInceptionDistance(
            feature=_Given(known.shape[1]), subsets=KID_SUBSETS, subset_size=size
        )
    metric.update(known, real=True)
    metric.update(drawn, real=False)
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws from the global generator
        torch.manual_seed(seed)
        return float(metric.compute()[0])


class _Given(nn.Module):
    """Features that are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class _Timm(nn.Module):
    """A network of timm without its last layer, and the preparation that it asks for."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        require("timm", f"timm:{name}")
        import timm

        try:
            self.network = timm.create_model(name, pretrained=True, num_classes=0)
        except Exception as error:  # of the Hub's client, of timm, or of the connection
            raise OSError(
                f"features timm:{name} cannot be had: {' '.join(str(error).split())}"
            ) from (error)
        wanted = timm.data.resolve_data_config({}, model=self.network)
        self.size = tuple(wanted["input_size"][1:])
        for field in ("mean", "std"):
            self.register_buffer(field, torch.tensor(wanted[field]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        values = nn.functional.interpolate(
            images.float() / 255, self.size, mode="bilinear", antialias=True
        )
        features: Tensor = self.network((values - self.mean) / self.std)
        return features


def _inception() -> nn.Module:
    require("torch_fidelity", INCEPTION)
    try:
        import torch_fidelity  # noqa: F401
    except Exception as error:  # torchvision beside another build of torch, in more than one kind
        raise OSError(
            f"features {INCEPTION} need torch-fidelity, which does not import: "
            f"{' '.join(str(error).split())}; timm:NAME and MODULE:NAME do without"
        ) from error
    try:
        network: nn.Module = _metrics().image.fid.NoTrainInceptionV3(
            name="inception-v3-compat", features_list=[INCEPTION_FEATURES]
        )
    except Exception as error:  # of the download
        raise OSError(
            f"the weights of {INCEPTION} cannot be had: {' '.join(str(error).split())}"
        ) from error
    return network


def _metrics() -> Any:
    require("torchmetrics", "FID")
    import torchmetrics.image.fid
    import torchmetrics.image.kid

    return torchmetrics


def _over_sets(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": math.fsum(values) / len(values), "std": std, "values": list(values)}
