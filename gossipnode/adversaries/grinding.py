"""Liars that choose among many claims, or among many beacons, so that their lies are not drawn for an audit.

* claim-grinder: hands in -u, in that of 64 variants (one number's last bits differ) which would not be drawn, or be
  audited by its own kind, if the newest beacon that it knows were the one that draws. It is not: that one comes later.
* beacon-grinder: hands in -u; as the aggregator of the next round, whose model is the beacon, it leaves out such inputs
  that its kind's claims of the round before are spared. Its mean is a true one of the inputs that it names.

Invariant: neither says two things to anybody, so that nothing but the draw can be what is ground.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from typing import Final

import numpy as np
import trio

from gossipnode.adversaries.bent import Gang, bend, bent
from gossipnode.adversaries.header import template_of
from gossipnode.adversaries.vectors import sign_flip
from gossipnode.conduct import Conduct
from gossipnode.learn.encoding import decode, encode
from gossipnode.node import Node
from gossipnode.trainings import AnyLearner
from protocols.blobs import Blobs
from protocols.claiming import claim_of, merged_of
from protocols.learner import Trained
from protocols.messages import Aggregate, Input
from protocols.modest import Modest
from sampling.peers import PeerId, Round
from verify.claims import Claim, auditors, is_drawn
from verify.digest import Digest, digest_of

VARIANTS: Final = 64  # tried at most
FEWEST: Final = 2  # inputs that a mean is made of


def claim_grinder(gang: Gang) -> Conduct:
    alive: list[Node] = []
    flipped = sign_flip(gang)

    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        lying = flipped.learner(honest, blobs)

        async def train(parent: Digest, round: Round, *, seed: int) -> Trained:
            trained = await lying.train(parent, round, seed=seed)
            tried = list(variants(await blobs.get(trained.model)))
            best = min(tried, key=lambda blob: _exposure(alive[0], gang, parent, round, trained.samples, blob))
            return dataclasses.replace(trained, model=await blobs.put(best))

        return bent(honest, train=train)

    async def live(node: Node) -> None:
        alive[:] = [node]
        gang.nodes.append(node)
        await node.run()

    return Conduct(learner=learner, live=live)


def variants(blob: bytes) -> Iterator[bytes]:
    """Models as good as that one, of other digests."""
    template = template_of(blob)
    values = decode(blob, template).copy()
    for _ in range(VARIANTS):
        values[0] = np.nextafter(values[0], np.float32(np.inf))
        yield encode(values, template)


def _exposure(node: Node, gang: Gang, parent: Digest, round: Round, samples: int, blob: bytes) -> tuple[bool, int]:
    """Were `parent` the beacon: is its claim drawn, and how many auditors are called before the first of its kind?"""
    protocol, parts = node.protocol, node.parts
    assert isinstance(protocol, Modest), "claims are of rounds"
    claim = Claim(parts.desk.me, round, parent, parts.data, digest_of(blob), samples).statement
    others = (peer for peer in protocol.auditor.candidates() if peer != parts.desk.me)
    order, kind = auditors(others, parent, claim), _peers(gang)
    first = next((rank for rank, peer in enumerate(order) if peer in kind), len(order))
    return is_drawn(parent, claim, parts.manifest.audit.fraction), first


def beacon_grinder(gang: Gang) -> Conduct:
    async def live(node: Node) -> None:
        gang.nodes.append(node)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.run)
            await _merge_luckily(node, gang)

    return dataclasses.replace(sign_flip(gang), live=live)


async def _merge_luckily(node: Node, gang: Gang) -> None:
    """Once it may aggregate at all."""
    protocol = node.protocol
    assert isinstance(protocol, Modest), "beacons are models of rounds"
    await node.joined.wait()
    await protocol.head.bell.until(lambda: protocol.aggregator is not None)
    assert protocol.aggregator is not None
    honest = protocol.aggregator._mean

    async def mean(round: Round, parent: Digest, inputs: tuple[Input, ...], committee: Sequence[PeerId]) -> Aggregate:
        if committee[0] == node.parts.desk.me:
            inputs = await _luckiest(protocol, gang, parent, inputs)
        return await honest(round, parent, inputs, committee)

    bend(protocol.aggregator, _mean=mean)


async def _luckiest(protocol: Modest, gang: Gang, parent: Digest, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """The choice of inputs whose mean, as the beacon of the round before, draws the fewest claims of its kind."""
    claims = _claims(protocol.head.remembered(parent), _peers(gang))
    fraction = protocol.auditor.evidence.audit.fraction
    best, fewest = inputs, len(claims) + 1
    for some in islice(_choices(inputs), VARIANTS):
        beacon = await protocol.head.merged(parent, some)
        drawn = sum(is_drawn(beacon, claim, fraction) for claim in claims)
        if drawn < fewest:
            best, fewest = some, drawn
        if not drawn:
            break
    return best


def _choices(inputs: tuple[Input, ...]) -> Iterator[tuple[Input, ...]]:
    """All of them first, then ever fewer."""
    for size in range(len(inputs), min(FEWEST, len(inputs)) - 1, -1):
        yield from combinations(inputs, size)


def _claims(aggregate: Aggregate | None, kind: set[PeerId]) -> list[Digest]:
    if aggregate is None or not aggregate.aggregators:
        return []
    own = [each for each in aggregate.inputs if each.trainer in kind]
    trained = [claim_of(aggregate.round, aggregate.parent, each).statement for each in own]
    return [*trained, merged_of(aggregate).statement] if aggregate.aggregators[0] in kind else trained


def _peers(gang: Gang) -> set[PeerId]:
    return {node.parts.desk.me for node in gang.nodes}
