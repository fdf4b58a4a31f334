"""How often probes suspect one update: an honest one, and each way of bending one, by the votes of a whole appeal.

On honest trajectories every EVERY-th round is looked at: each of its updates is probed as the nodes would, by all
others in an order that is drawn, with signatures under seeds of their own (`verify.probe`, `verify.tally`). A table in
Markdown: first auditors that suspect it, then updates whose maker would be suspended, with Clopper-Pearson bounds.
Rounds are merged by the manifest's rule: a robust one leaves out who still learns, so that its updates stay long.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import click
import msgspec
import numpy as np
import torch

from gossipnode.adversaries import vectors
from gossipnode.adversaries.mislabelled import spec_of
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import Vector, decode, encode
from gossipnode.learn.engine import Engine
from gossipnode.learn.shard import Shard
from gossipnode.newrun import draft, settings_tables
from gossipnode.sweep import seeds_of
from protocols.signatures import Signer
from sampling.peers import PeerId
from verify.binomial import bounds
from verify.probe import suspects
from verify.simhash import signature
from verify.tally import Stage, of_probes, tally, wanted

APPEAL: Final = 11
SIZES: Final = "sizes"  # a partition of the trials: iid, but of every three nodes one has 4 and one 16 times fewer
FEWER: Final = (1, 4, 16)
FORGES: Final = {
    "sign-flip": vectors.flipped,
    "scaling": vectors.scaled,
    "noise": vectors.noisy,
    "inner-product": vectors.against,
    "alie": vectors.a_little,
}
KINDS: Final = ("honest", *FORGES, "stale", "free-rider", "label-flip", "lazy")


@dataclass
class Trial:
    """One training, of `nodes` nodes that are all honest."""

    task: str
    partition: str
    nodes: int
    seed: int
    settings: Sequence[str] = ()  # of the manifest
    first: dict[int, Vector] = field(default_factory=dict)  # the model that a node trained first

    def __post_init__(self) -> None:
        tables = settings_tables([f"task={self.task}", "name=trial", f"seed={self.seed}", *self.settings])
        manifest = draft(tables, AUTHOR.peer)
        self.training = manifest.training
        config, self.trainers = LearnerConfig.of(manifest), manifest.modest.trainers
        step = msgspec.structs.replace(config.training, epochs=0, steps=1)
        self.honest, self.lazy = Engine(config), Engine(msgspec.structs.replace(config, training=step))
        self.mislabelled = Engine(msgspec.structs.replace(config, task=spec_of(config.task)))
        self.rng, self.draw = random.Random(self.seed), np.random.default_rng(self.seed)
        self.theta = decode(self.honest.initial(), self.honest.template).copy()
        self.norms = [signature(self.update(node), bytes(32)).norm for node in range(self.nodes)]  # first ones

    def update(self, node: int, engine: Engine | None = None) -> Vector:
        engine = engine or self.honest
        data = engine.data(self.shard(node))
        parent = encode(self.theta, engine.template)
        made = engine.train(parent, data, seed=self.rng.getrandbits(60)).blob
        found: Vector = decode(made, engine.template) - self.theta
        return found

    def play(self, rounds: int, every: int, kinds: Sequence[str] = KINDS) -> Iterator[tuple[str, bool, bool]]:
        """A kind, whether the first auditor suspects it, and whether the appeal does."""
        for round in range(1, rounds + 1):
            trainers = self.rng.sample(range(self.nodes), self.trainers)
            updates = {node: self.update(node) for node in trainers}
            for node, update in updates.items():
                self.first.setdefault(node, self.theta + update)
            if round % every == 0:
                others = {node: self.update(node) for node in range(self.nodes)} | updates
                for node in trainers:
                    bent = self._bent(node, updates[node])
                    for kind in kinds:
                        yield kind, *self._probed(node, bent[kind], others)
            parent = encode(self.theta, self.honest.template)
            models = [encode(self.theta + updates[node], self.honest.template) for node in trainers]
            made = self.honest.merge(models, [self.size(node) for node in trainers], parent)
            self.theta = decode(made, self.honest.template).copy()

    def size(self, node: int) -> int:
        return len(self.honest.data(self.shard(node)).rows)

    def shard(self, node: int) -> Shard:
        if self.partition == SIZES:
            count = self.nodes * FEWER[node % len(FEWER)]
            return Shard(index=node, count=count, partition="iid", seed=self.seed)
        return Shard(index=node, count=self.nodes, partition=self.partition, seed=self.seed)

    def steps(self, node: int) -> int:
        return self.training.batches(self.size(node))

    def _bent(self, node: int, update: Vector) -> dict[str, Vector]:
        """In every way, whichever is looked at: training goes on alike."""
        several = np.stack([update, *(self.update(node) for _ in range(vectors.REPLAYS - 1))])
        forged = {kind: forge(several, self.draw) for kind, forge in FORGES.items()}
        return {"honest": update} | forged | {
            "stale": self.first[node] - self.theta,
            "free-rider": np.zeros_like(update),
            "label-flip": self.update(node, self.mislabelled),
            "lazy": self.update(node, self.lazy),
        }  # fmt: skip

    def _probed(self, node: int, update: Vector, others: dict[int, Vector]) -> tuple[bool, bool]:
        """Auditors vote when they are called."""
        order = [PeerId(str(each)) for each in self.rng.sample(range(self.nodes), self.nodes) if each != node]
        votes: dict[PeerId, frozenset[bool]] = {}
        while True:
            verdict = of_probes(tally(order, votes, APPEAL))
            called = order[: wanted(verdict.stage, len(order), APPEAL)]
            if len(votes) >= len(called):
                return False in votes[order[0]], verdict.stage is Stage.SUSPENDED
            for peer in called[len(votes) :]:
                seed = self.rng.randbytes(32)
                own, claimed = signature(others[int(peer)], seed), signature(update, seed)
                times = self.steps(node) / self.steps(int(peer))
                votes[peer] = frozenset([not suspects(own, claimed, self.norms[int(peer)], times)])


AUTHOR: Final = Signer.from_seed(bytes(32))


def table(partitions: Sequence[str], found: dict[str, list[tuple[str, bool, bool]]]) -> Iterator[str]:
    yield "| update | " + " | ".join(f"{each}: first | suspended" for each in partitions) + " |"
    yield "|---" * (1 + 2 * len(partitions)) + "|"
    for kind in dict.fromkeys(kind for trials in found.values() for kind, _, _ in trials):
        cells = [cell for each in partitions for cell in _cells([t for t in found[each] if t[0] == kind])]
        yield f"| {kind} | " + " | ".join(cells) + " |"


def _cells(trials: Sequence[tuple[str, bool, bool]]) -> Iterator[str]:
    count = Counter(hit for trial in trials for hit, holds in zip(("first", "out"), trial[1:], strict=True) if holds)
    low, high = bounds(count["out"], len(trials))
    yield f"{count['first'] / len(trials):.1%}"
    yield f"{count['out']} of {len(trials)} ({low:.1%} to {high:.1%})"


@click.command(context_settings={"show_default": True})
@click.option("--task", default="digits")
@click.option("--nodes", default=20, type=click.IntRange(4))
@click.option("--rounds", default=60)
@click.option("--every", default=5, help="rounds from one that is looked at to the next")
@click.option("--kinds", default=",".join(KINDS), help="comma-separated")
@click.option("--partitions", default="iid,dirichlet:0.5,labels,sizes", help="comma-separated")
@click.option("--seeds", default="0:10", help="A:B")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="any key of the manifest")
def main(
    task: str, nodes: int, rounds: int, every: int, kinds: str, partitions: str, seeds: str, settings: Sequence[str]
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    names = partitions.split(",")
    found = {
        name: [
            each
            for seed in seeds_of(seeds)
            for each in Trial(task, name, nodes, seed, settings).play(rounds, every, kinds.split(","))
        ]
        for name in names
    }
    print("\n".join(table(names, found)))


if __name__ == "__main__":
    main()
