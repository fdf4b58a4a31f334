"""Auditors who do not do what they are drawn for.

* lying-auditor: doubts every update, and every entry, by a replay from another seed. lazy-auditor: trains nothing: it
  commits to anything, and when it has the claimed bytes, agrees with them. colluding-auditor: hands in flipped updates,
  and vouches for those of its own kind, who give it their bytes beforehand.

Their votes are well-formed: what is wrong with them only another auditor can say, or whoever keeps their commitments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence

from gossipnode.adversaries.bent import Gang, bend, bent
from gossipnode.adversaries.vectors import sign_flip
from gossipnode.conduct import Conduct
from gossipnode.node import Node
from gossipnode.trainings import AnyLearner
from protocols.auditing import Auditing, CannotAudit
from protocols.blobs import Blobs, StoreFull
from protocols.evidence import Case
from protocols.exchange import NotFetched
from protocols.learner import LearnerError, Probed, Trained, Unfit
from protocols.messages import Input
from protocols.modest import Modest
from sampling.peers import Round
from verify.claims import Vote
from verify.digest import Digest

GUESS = bytes(32)  # committed to, in place of a result

Verdict = Callable[[Auditing, Case, Input], Awaitable[Vote | None]]


def lying_auditor(gang: Gang) -> Conduct:
    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def replay(parent: Digest, round: Round, *, seed: int, shard: str, samples: int) -> Trained:
            return await honest.replay(parent, round, seed=seed + 1, shard=shard, samples=samples)

        async def reprobe(seeds: Sequence[int], *, seed: int, shard: str) -> Probed:
            return await honest.reprobe(seeds, seed=seed + 1, shard=shard)

        return bent(honest, replay=replay, reprobe=reprobe)

    return Conduct(learner=learner)


def lazy_auditor(gang: Gang) -> Conduct:
    async def agree(auditing: Auditing, case: Case, made: Input) -> Vote:
        nonce = auditing._nonce(case)
        await auditing._claimed_bytes(case, [made], GUESS, nonce)
        claimed = bytes(await auditing._signature(case, made.model))
        return auditing._vote(case, claimed, claimed, nonce, agrees=True)

    return _judging(gang, agree)


def colluding_auditor(gang: Gang) -> Conduct:
    async def vouch(auditing: Auditing, case: Case, made: Input) -> Vote | None:
        friend = next((node for node in gang.nodes if node.parts.desk.me == made.trainer), None)
        if friend is None or made.model not in friend.parts.blobs:
            return None
        await auditing._parts.blobs.put(await friend.parts.blobs.get(made.model))
        claimed = bytes(await auditing._signature(case, made.model))
        return auditing._vote(case, claimed, claimed, auditing._nonce(case), agrees=True)

    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def reprobe(seeds: Sequence[int], *, seed: int, shard: str) -> Probed:
            """In one-byte training all that it finds is flipped, so that it finds what its own kind has sent."""
            probed = await honest.reprobe(seeds, seed=seed, shard=shard)
            scalars = bytes(-byte % 256 for byte in probed.scalars)
            return dataclasses.replace(probed, scalars=scalars)

        return bent(sign_flip(gang).learner(honest, blobs), reprobe=reprobe)

    return dataclasses.replace(_judging(gang, vouch), learner=learner)


def _judging(gang: Gang, verdict: Verdict) -> Conduct:
    """Updates are judged so; where it gives None, and aggregates, honestly."""

    async def live(node: Node) -> None:
        if not isinstance(node.protocol, Modest):
            return await node.run()
        gang.nodes.append(node)
        auditing = node.protocol.auditor._auditing
        honest = auditing.audit

        async def audit(case: Case) -> Vote:
            if case.made is not None:
                try:
                    await auditing._have_parent(case)
                    vote = await verdict(auditing, case, case.made)
                except (NotFetched, StoreFull, LearnerError, Unfit) as error:
                    raise CannotAudit(str(error)) from error
                return vote if vote is not None else await honest(case)
            return await honest(case)

        bend(auditing, audit=audit)
        return await node.run()

    return Conduct(live=live)
