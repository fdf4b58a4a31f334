"""What the conversation is made of, and what it tells the node that runs it; the daemon and the simulator build it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from protocols.blobs import Blobs
from protocols.desk import Desk
from protocols.evidence import Judgement
from protocols.exchange import ModelExchange
from protocols.learner import Evaluation, StepLearner
from protocols.manifest import Manifest
from protocols.membership import Membership
from protocols.onebyte.journal import Log
from protocols.signatures import Signer


@dataclass(frozen=True)
class Parts:
    desk: Desk
    membership: Membership
    exchange: ModelExchange
    learner: StepLearner
    blobs: Blobs
    manifest: Manifest  # its rules of the chain are those of the first one: no amendment can change them
    signer: Signer
    log: Log
    rng: random.Random
    data: bytes = b""  # the shard that we probe on, as our Join has it; empty: others cannot make it


def _unheard(*what: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the node wants to hear of."""

    advanced: Callable[[int], None] = _unheard  # A is at the tip of this height now
    evaluated: Callable[[int, Evaluation], None] = _unheard  # A of this height, on our own test set
    judged: Callable[[Judgement], None] = _unheard  # the branch we follow has expelled somebody
