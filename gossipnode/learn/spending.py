"""How much privacy this node's data has lost to private probes: counted on disk before a byte leaves the worker.

`privacy.json`, in the node's home, says how many probes were answered with which noise, of how many examples; so the
count outlives the process however it ends, and a later change of noise or data adds to what was spent before. Probes
that were answered without the privacy option are not in it: what those revealed has no bound.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gossipnode.errors import reason
from gossipnode.files import write_whole
from gossipnode.learn.accountant import Privacy, composed
from protocols.learner import LearnerError

DELTA: Final = 1e-5  # of (epsilon, delta): the chance that the bound fails; it suits nodes with fewer than 1e5 examples
NAME: Final = "privacy.json"
Whole = Annotated[int, Meta(ge=1)]


@dataclasses.dataclass(frozen=True, slots=True)
class Mechanism:
    """What one private probe is, as far as the accountant cares."""

    batch: Whole
    examples: Whole
    sigma: Annotated[float, Meta(ge=0.0)]

    @property
    def rate(self) -> float:
        return min(1.0, self.batch / self.examples)


class Used(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the file."""

    mechanism: Mechanism
    probes: Whole


class Spending:
    """Owns the file."""

    def __init__(self, folder: Path, privacy: Privacy, batch: int, examples: int) -> None:
        """Raises LearnerError."""
        self._path = folder / NAME
        self._mechanism = Mechanism(batch, examples, privacy.sigma)
        self._used = _read(self._path)

    def count(self, probes: int) -> None:
        """Durable when it returns. Raises LearnerError, and then nothing must be revealed."""
        used = {**self._used, self._mechanism: self._used.get(self._mechanism, 0) + probes}
        lines = [Used(mechanism=mechanism, probes=count) for mechanism, count in used.items()]
        try:
            write_whole(self._path, msgspec.json.format(msgspec.json.encode(lines)), mode=0o600)
        except OSError as error:
            raise LearnerError(f"private probes cannot be counted in {self._path}: {reason(error)}") from error
        self._used = used

    def epsilon(self) -> float:
        """At DELTA."""
        return composed([(each.rate, each.sigma, count) for each, count in self._used.items()], delta=DELTA)


def _read(path: Path) -> dict[Mechanism, int]:
    try:
        lines = msgspec.json.decode(path.read_bytes(), type=list[Used])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        line = f"{path} cannot be read, so the privacy that was spent is not known: restore it from a backup"
        raise LearnerError(line) from error
    return {line.mechanism: line.probes for line in lines}
