"""A seam that is honest in all but some of its methods, and what the hostile nodes of one process share.

Whatever an adversary does not name goes to the honest part, also methods that the seam gets later, so an adversary says
only how it deviates.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from gossipnode.node import Node

T = TypeVar("T")


class _Bent:
    def __init__(self, honest: object, instead: Mapping[str, object]) -> None:
        self.__dict__.update(instead, _honest=honest)

    def __getattr__(self, name: str) -> object:
        return getattr(self._honest, name)


def bent(honest: T, **instead: object) -> T:
    """`honest`, but for the methods given."""
    return cast("T", _Bent(honest, instead))


@dataclass(slots=True)
class Gang:
    """The hostile nodes of one kind in this process: they know each other, and all that each of them hears."""

    rng: random.Random
    nodes: list[Node] = field(default_factory=list)


def bend(part: object, **instead: object) -> None:
    """The same to a part that others hold already."""
    vars(part).update(instead)
