"""What the file of an evaluation holds, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_stderr(bits: Mapping[str, float | None]) -> str:
    """A mean with its standard error, where there is one: "3.6785 ± 0.0058"."""
    stderr = "" if bits["stderr"] is None else f" ± {bits['stderr']:.4f}"
    return f"{bits['mean']:.4f}{stderr}"


def bound_of(found: Mapping[str, Any]) -> str:
    """The bound that an evaluation gave, and whether it is an estimate."""
    draws = draws_of(found)
    how = "" if draws is None else f" (estimated, {draws} draws)"
    return with_stderr(found["elbo_bits_per_dim"]) + how


def draws_of(found: Mapping[str, Any]) -> int | None:
    """Draws an image of an estimated bound; None where it is exact, as once it always was."""
    estimate = found.get("estimate")
    return None if estimate is None else int(estimate["draws"])


def summary(results: Mapping[str, Any]) -> str:
    """The results in two lines."""
    if results["estimate"] is not None:
        return _summary_of_estimate(results)
    samples = f"{results['samples']} importance sample{'s' * (results['samples'] > 1)}"
    width = max(len(samples), len("one-sample bound"))
    what = f"{results['images']} {results['split']} images of {results['data']}"
    return (
        f"{'one-sample bound':<{width}}  {with_stderr(results['elbo_bits_per_dim'])} bits/dim\n"
        f"{samples:<{width}}  {with_stderr(results['bits_per_dim'])} bits/dim on {what}"
    )


def _summary_of_estimate(results: Mapping[str, Any]) -> str:
    draws, stderr = results["estimate"]["draws"], results["estimate"]["stderr"]
    return (
        f"bound, estimated  {with_stderr(results['elbo_bits_per_dim'])} bits/dim on "
        f"{results['images']} {results['split']} images of {results['data']}\n"
        f"{draws} draws an image of an unbiased estimate; of the error ± {stderr:.4f} are theirs"
    )
