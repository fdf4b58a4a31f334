"""What training in one place reaches on the data of a whole swarm: the figure beside a testnet's own."""

from __future__ import annotations

from gossipnode.learn.central import train_central
from gossipnode.learn.config import LearnerConfig
from gossipnode.status.report import Status
from protocols.manifest import validated

CENTRAL_PASSES = 30


def central_accuracy(status: Status) -> float:
    """After as many passes over all the data, in one place, as the swarm's trainers made together; beside one-byte
    training, which makes none, after CENTRAL_PASSES."""
    assert status.run is not None
    manifest = validated(status.run.manifest)
    shards = sum(len(each.trainers) for each in status.history) * max(1, manifest.training.epochs)
    passes = max(1, round(shards / (len(status.peers) + 1)))
    if manifest.protocol == "gossip":  # there each training is a pass over what the node has
        passes = max(1, status.progress.round) * max(1, manifest.training.epochs)
    if manifest.protocol == "onebyte":
        passes = CENTRAL_PASSES
    *_, last = train_central(LearnerConfig.of(manifest), epochs=passes)
    return last["accuracy"]
