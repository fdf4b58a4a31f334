"""How a node conducts itself at each of its seams: as its own code does, unless a test says otherwise.

The daemon and the simulator ask a conduct for each part that they build. `HONEST` hands every part back as it is; the
adversaries of `gossipnode.adversaries` hand back another. Invariant: no honest code asks whether a node is honest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gossipnode.learn.config import LearnerConfig
from gossipnode.node import Node
from gossipnode.trainings import AnyLearner
from protocols.blobs import Blobs
from protocols.transport import Transport


def _same_config(config: LearnerConfig) -> LearnerConfig:
    return config


def _same_transport(transport: Transport) -> Transport:
    return transport


def _same_learner(learner: AnyLearner, blobs: Blobs) -> AnyLearner:
    return learner


async def _run(node: Node) -> None:
    await node.run()


@dataclass(frozen=True, slots=True)
class Conduct:
    config: Callable[[LearnerConfig], LearnerConfig] = _same_config  # task, data and effort
    learner: Callable[[AnyLearner, Blobs], AnyLearner] = _same_learner  # what is made of them
    transport: Callable[[Transport], Transport] = _same_transport  # what is said and served
    live: Callable[[Node], Awaitable[None]] = _run  # until cancelled


HONEST = Conduct()
