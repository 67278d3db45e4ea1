"""The command `vflow`, also `python -m vflow`.

A subcommand's module is imported when it is called for, so that `vflow --help` need not wait for
torch's.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence

from vflow.runtime.console import one_line_errors


def _train(args: Sequence[str]) -> None:
    from vflow.runtime.arguments import parse
    from vflow.train import TrainConfig, train

    train(parse(TrainConfig, "vflow train", args))


def _evaluate(args: Sequence[str]) -> None:
    from vflow.evaluate import EvaluateConfig, evaluate, summary
    from vflow.runtime.arguments import parse
    from vflow.runtime.distributed import Ranks

    config = parse(EvaluateConfig, "vflow evaluate", args)
    results = evaluate(config)
    if Ranks.from_environment().is_main:
        print(f"{summary(results)}\nwritten to {config.results_path(results['step'])}")


def _sample(args: Sequence[str]) -> None:
    from vflow.runtime.arguments import parse
    from vflow.sample import SampleConfig, sample

    config = parse(SampleConfig, "vflow sample", args)
    images = sample(config)
    print(f"{len(images)} samples in {config.npz_path}, shown in {config.out}")


def _score(args: Sequence[str]) -> None:
    from vflow.runtime.arguments import parse
    from vflow.scores.command import ScoreConfig, report, score

    config = parse(ScoreConfig, "vflow score", args)
    print(f"{report(score(config))}\nwritten to {config.out}")


def _fid(args: Sequence[str]) -> None:
    from vflow.fid import FidConfig, fid, summary
    from vflow.runtime.arguments import parse

    config = parse(FidConfig, "vflow fid", args)
    print(f"{summary(fid(config))}\nwritten to {config.out}")


def _report(args: Sequence[str]) -> None:
    from vflow.report import ReportConfig, report
    from vflow.runtime.arguments import parse

    print(f"written to {report(parse(ReportConfig, 'vflow report', args))}")


def _publish(args: Sequence[str]) -> None:
    from vflow.publish import PublishConfig, publish
    from vflow.runtime.arguments import parse

    print(f"published: {publish(parse(PublishConfig, 'vflow publish', args))}")


def _compress(args: Sequence[str]) -> None:
    from vflow.compression.commands import CompressConfig, compress, summary
    from vflow.runtime.arguments import parse

    config = parse(CompressConfig, "vflow compress", args)
    print(f"{summary(compress(config))}\nwritten to {config.out}")


def _decompress(args: Sequence[str]) -> None:
    from vflow.compression.commands import DecompressConfig, decompress
    from vflow.runtime.arguments import parse

    config = parse(DecompressConfig, "vflow decompress", args)
    count, lost = decompress(config)
    print(f"{count:,} images written to {config.out}")
    if lost:
        raise ValueError(f"{len(lost)} lost: {'; '.join(lost[:10])}{'; ...' * (len(lost) > 10)}")


def _list(args: Sequence[str]) -> None:
    from vflow.compression.commands import ListConfig, describe
    from vflow.runtime.arguments import parse

    print(describe(parse(ListConfig, "vflow list", args)))


def _models(args: Sequence[str]) -> None:
    from vflow.cli.about import ModelsConfig, describe_models
    from vflow.runtime.arguments import parse

    print(describe_models(parse(ModelsConfig, "vflow models", args).pattern))


def _info(args: Sequence[str]) -> None:
    from vflow.cli.about import InfoConfig, describe_machine
    from vflow.runtime.arguments import parse

    parse(InfoConfig, "vflow info", args)
    print(describe_machine())


def _demo(args: Sequence[str]) -> None:
    from vflow.demo import DemoConfig, demo
    from vflow.runtime.arguments import parse

    demo(parse(DemoConfig, "vflow demo", args))


def _toy(args: Sequence[str]) -> None:
    from vflow.runtime.arguments import parse
    from vflow.toy import ToyConfig, toy

    toy(parse(ToyConfig, "vflow toy", args))


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "train": (_train, "train a model, or go on with an interrupted run"),
    "evaluate": (_evaluate, "measure bits/dim by the bound and by importance sampling"),
    "sample": (_sample, "draw samples, as a picture and as an array"),
    "score": (_score, "tell which images do not belong to what a model was trained on"),
    "fid": (_fid, "measure how far samples are from a data set, by FID and KID"),
    "report": (_report, "lay training runs over each other on one page"),
    "publish": (_publish, "write a run's model with its card, or put it on the Hub"),
    "compress": (_compress, "compress pictures or a data set with a model, without loss"),
    "decompress": (_decompress, "write the pictures of an archive"),
    "list": (_list, "tell what is in an archive"),
    "models": (_models, "list the trained models and the presets"),
    "info": (_info, "tell versions, devices and which operations run on what"),
    "demo": (_demo, "train a small VFlow on photographs in a few minutes"),
    "toy": (_toy, "see on densities of the plane why widening a flow helps"),
}


@one_line_errors
def main(args: Sequence[str] | None = None) -> None:
    """Run a subcommand.

    Args:
        args: The arguments; by default those of this process.

    Raises:
        SystemExit: With code 0 after help, with another than 0 after an error, which is told in
            one line on stderr.
    """
    args = sys.argv[1:] if args is None else list(args)
    if args[:1] == ["help"]:
        args = [*args[1:2], "--help"]
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        raise SystemExit(0 if args else 1)
    if args[0] in ("-V", "--version", "version"):
        from vflow import __version__

        print(__version__)
        return
    if args[0] not in COMMANDS:
        close = difflib.get_close_matches(args[0], COMMANDS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"command must be one of {', '.join(COMMANDS)}, got {args[0]!r}{hint}")
    COMMANDS[args[0]][0](args[1:])


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {description}" for name, (_, description) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vflow COMMAND ...",
            "",
            "Likelihood-based image flows (VFlow, Flow++, Glow, Residual Flow): models that know",
            "how probable an image is, and so can score, draw and compress images.",
            "",
            *lines,
            "",
            "For a first look: vflow sample photos-mini, or vflow demo. vflow help COMMAND lists",
            "a command's flags; torchrun -m vflow COMMAND runs several processes of train or",
            "evaluate.",
        ]
    )
