"""Training in one place on all the data: what a swarm's accuracy is compared with in reports. No node runs this."""

from __future__ import annotations

from collections.abc import Iterator

from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.shard import Shard


def train_central(config: LearnerConfig, *, epochs: int) -> Iterator[dict[str, float]]:
    """The task's metrics after each pass over the whole training set. Raises TaskError, LearnerError.

    The same seed, model, optimiser and encoding as the swarm's; momentum starts anew in each pass, as in a round.
    """
    engine = Engine(config)
    data = engine.data(Shard())
    model = engine.initial()
    for epoch in range(epochs):
        model = engine.train(model, data, seed=config.seed + epoch).blob
        yield engine.evaluate(model, data)
