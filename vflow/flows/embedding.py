"""A flow of few channels within a flow of more (VFlow, Chen et al., 2020, Theorem 1, Appendix A).

Every layer of D channels has a twin of D + Dz channels that treats the D as before and leaves the
others alone. So `wide.embed(narrow, places)` goes through the layers: each sets its parameters, and
tells the next where the D channels now stand among its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Places:
    """Where a narrow tensor's channels are among a wide one's."""

    channels: tuple[int, ...]
    """The wide channel of each narrow one."""
    total: int
    """Channels of the wide tensor."""

    @property
    def others(self) -> tuple[int, ...]:
        """The wide channels that are none of the narrow tensor's."""
        return tuple(sorted(set(range(self.total)) - set(self.channels)))


class CannotEmbed(ValueError):
    """A layer cannot leave the extra channels alone."""

    def at(self, index: int) -> CannotEmbed:
        """The same error of the layer at that place."""
        path, _, reason = str(self).rpartition(": ")
        inner = path.removeprefix("layer ")
        return CannotEmbed(f"layer {index}{'.' + inner if inner else ''}: {reason}")
