"""When an auditor is called: those before it in rank are too few for the stage that the case is at, or silent.

Whoever is silent for a learned deadline is replaced by the next in rank, so each deadline that passes within a stage
calls one more. Invariant: who is called by nobody's silence is called by the votes alone, alike on every node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import trio

from protocols.bell import Bell
from sampling.patience import Patience
from sampling.peers import PeerId
from verify.tally import DECIDED, Stage, wanted

LEAST_WAIT_S: Final = 0.05  # a deadline that is all but over must not be waited for again and again
DOUBTS: Final = 6  # of the longest deadlines: so long an undecided case is attended to


class Closed(Exception):
    """The case needs us no longer."""


class Look(NamedTuple):
    """At a case, as it stands now."""

    stage: Stage
    order: Sequence[PeerId]
    appeal: int  # auditors that decide one


async def until_called(
    me: PeerId, bell: Bell, patience: Patience, look: Callable[[], Look], mark: Callable[[], object]
) -> None:
    """Returns when our turn has come. Raises Closed if it does not; so may `look`. Whenever `look` may find something
    else, `mark` gives something else."""
    stage = Stage.OPEN
    since = opened = trio.current_time()
    while True:
        now, found, before = trio.current_time(), look(), mark()
        late = now - opened > patience.ceiling_s * DOUBTS
        if late or found.stage in DECIDED or me not in found.order:  # we may be leaving
            raise Closed
        if found.stage != stage:
            stage, since = found.stage, now
        waited = int((now - since) / patience.deadline_s)
        if found.order.index(me) < wanted(stage, len(found.order), found.appeal) + waited:
            return
        with trio.move_on_after(max(LEAST_WAIT_S, since + (waited + 1) * patience.deadline_s - now)):
            await bell.until(lambda: mark() != before)  # noqa: B023 - awaited at once
