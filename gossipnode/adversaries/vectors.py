"""Trainers that hand in another update than the one they made; u is the honest update, m and s the mean and deviation
of what the attacker's own trainings from a few seeds give.

* sign-flip: -u. scaling: 10 u. noise: normal noise ten times as long as u in its place.
* alie, "A Little Is Enough" (arXiv 1902.06156): m - 1.5 s, coordinate by coordinate.
* inner-product, "Fall of Empires" (arXiv 1903.03936): -2 m.

In one-byte training the same is done to the bytes: negated, scaled until they are cut off, or drawn. Strengths of alie
and inner-product are ByzFL's defaults (arXiv 2505.24802). Every hostile model is one that a task could have made:
finite, of the run's shape and encoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gossipnode.adversaries.bent import Gang, bent
from gossipnode.adversaries.header import template_of
from gossipnode.conduct import Conduct
from gossipnode.learn.encoding import Vector, decode, encode
from gossipnode.trainings import AnyLearner
from protocols.blobs import Blobs
from protocols.learner import Probed, Trained
from sampling.peers import Round
from verify.digest import Digest

Updates = NDArray[np.float32]  # (trainings, P)
Draw = np.random.Generator
Forge = Callable[[Updates, Draw], Vector]  # another update
Bytes = NDArray[np.int8]
Twist = Callable[[Bytes, Draw], NDArray[np.generic]]  # other bytes, cut off at +-127

REPLAYS = 3  # trainings from which alie and inner-product tell mean and deviation
LARGEST = 1e30  # of a value, so that an attack on a diverged model stays finite
SCALE, NOISE, ALIE, INNER = 10.0, 10.0, 1.5, 2.0


def flipped(updates: Updates, draw: Draw) -> Vector:
    result: Vector = -updates[0]
    return result


def scaled(updates: Updates, draw: Draw) -> Vector:
    result: Vector = updates[0] * np.float32(SCALE)
    return result


def noisy(updates: Updates, draw: Draw) -> Vector:
    noise: Vector = draw.standard_normal((updates.shape[1],), dtype=np.float32)
    longer = NOISE * float(np.linalg.norm(updates[0])) / float(np.linalg.norm(noise))
    result: Vector = noise * np.float32(longer)
    return result


def a_little(updates: Updates, draw: Draw) -> Vector:
    result: Vector = updates.mean(axis=0) - np.float32(ALIE) * updates.std(axis=0)
    return result


def against(updates: Updates, draw: Draw) -> Vector:
    result: Vector = updates.mean(axis=0) * np.float32(-INNER)
    return result


def conduct_of(gang: Gang, forge: Forge, twist: Twist, trainings: int = 1) -> Conduct:
    draw = np.random.default_rng(gang.rng.getrandbits(64))

    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def train(parent: Digest, round: Round, *, seed: int) -> Trained:
            before, models = await blobs.get(parent), []
            for each in range(trainings):
                trained = await honest.train(parent, round, seed=seed + each)
                models.append(await blobs.get(trained.model))  # at once: it may have to make room for the next
            return dataclasses.replace(trained, model=await blobs.put(_forged(before, models, forge, draw)))

        async def probe(seeds: Sequence[int], *, seed: int) -> Probed:
            probed = await honest.probe(seeds, seed=seed)
            scalars = twist(np.frombuffer(probed.scalars, dtype=np.int8), draw)
            return dataclasses.replace(probed, scalars=np.clip(scalars, -127, 127).astype(np.int8).tobytes())

        return bent(honest, train=train, probe=probe)

    return Conduct(learner=learner)


def _forged(before: bytes, models: Sequence[bytes], forge: Forge, draw: Draw) -> bytes:
    template = template_of(before)
    start = decode(before, template)
    updates = np.stack([decode(model, template) - start for model in models])
    return encode(np.clip(start + forge(updates, draw), -LARGEST, LARGEST), template)


def sign_flip(gang: Gang) -> Conduct:
    return conduct_of(gang, flipped, lambda scalars, draw: -scalars.astype(np.int16))


def scaling(gang: Gang) -> Conduct:
    return conduct_of(gang, scaled, lambda scalars, draw: scalars.astype(np.int16) * int(SCALE))


def noise(gang: Gang) -> Conduct:
    return conduct_of(gang, noisy, lambda scalars, draw: draw.integers(-127, 128, len(scalars)))


def alie(gang: Gang) -> Conduct:
    """One byte has no other coordinates to hide among: there it is the bytes less 1.5 of their deviation."""
    return conduct_of(gang, a_little, lambda scalars, draw: scalars - ALIE * scalars.std(), REPLAYS)


def inner_product(gang: Gang) -> Conduct:
    return conduct_of(gang, against, lambda scalars, draw: scalars.astype(np.int16) * -int(INNER), REPLAYS)
