"""A flow of few channels within a flow of more (VFlow, Chen et al., 2020, Theorem 1, Appendix A).

Every layer of D channels has a twin of D + Dz channels that treats the D as before and leaves the
others alone. So `wide.embed(narrow, places)` goes through the layers: each sets its parameters, and
tells the next where the D channels now stand among its own.

Some couplings cannot rest but multiply by a constant; the next layer that can undoes it. So
`Places` also tells by what each channel has been multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

SCALE_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Places:
    """Where a narrow tensor's channels are among a wide one's."""

    channels: tuple[int, ...]
    """The wide channel of each narrow one."""
    total: int
    """Channels of the wide tensor."""
    log_scales: tuple[float, ...] = field(default=())
    """Logarithm of what each wide channel has been multiplied by; 0 for those of the narrow."""

    def __post_init__(self) -> None:
        if not self.log_scales:
            object.__setattr__(self, "log_scales", (0.0,) * self.total)

    @property
    def others(self) -> tuple[int, ...]:
        """The wide channels that are none of the narrow tensor's."""
        return tuple(sorted(set(range(self.total)) - set(self.channels)))

    @property
    def others_log_scales(self) -> list[float]:
        """What `others` have been multiplied by, its logarithm."""
        return [self.log_scales[channel] for channel in self.others]

    def part(self, channels: tuple[int, ...], start: int, end: int) -> Places:
        """The places of some narrow channels among the wide ones from `start` to `end`."""
        moved = tuple(channel - start for channel in channels)
        return Places(moved, end - start, self.log_scales[start:end])

    def scaled(self, log_scale: float) -> Places:
        """The same after the others have been multiplied once more."""
        found = list(self.log_scales)
        for channel in self.others:
            found[channel] += log_scale
        return Places(self.channels, self.total, tuple(found))


def join(parts: Sequence[Places]) -> Places:
    """The places in channels that are put one after another."""
    channels: list[int] = []
    log_scales: list[float] = []
    for part in parts:
        channels += [len(log_scales) + channel for channel in part.channels]
        log_scales += part.log_scales
    return Places(tuple(channels), len(log_scales), tuple(log_scales))


def require_rest(places: object) -> None:
    """Raise CannotEmbed if a channel that should be left alone ends multiplied by something."""
    for part in places if isinstance(places, tuple) else (places,):
        assert isinstance(part, Places)
        worst = max(map(abs, part.log_scales), default=0.0)
        if worst > SCALE_TOLERANCE:
            raise CannotEmbed(
                f"layer -1: nothing after the last coupling undoes its scale of {math.exp(worst):g}"
            )


class CannotEmbed(ValueError):
    """A layer cannot leave the extra channels alone."""

    def at(self, index: int) -> CannotEmbed:
        """The same error of the layer at that place."""
        path, _, reason = str(self).rpartition(": ")
        inner = path.removeprefix("layer ")
        return CannotEmbed(f"layer {index}{'.' + inner if inner else ''}: {reason}")
