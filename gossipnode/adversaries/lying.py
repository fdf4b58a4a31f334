"""Members that lie to their peers with honest training behind them.

* garbage: every second frame that it sends, asks, answers or serves is random bytes of the same length.
* equivocator: trains twice and offers one update to some aggregators, the other to the rest.
* false-aggregate: hands out, as the mean of a round's models, the first of them alone.
* false-answer: answers questions to the model with its scores negated, and signs that.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from gossipnode.adversaries.bent import Gang, bent
from gossipnode.conduct import Conduct
from gossipnode.node import Node
from gossipnode.trainings import AnyLearner
from protocols import wire
from protocols.blobs import Blobs
from protocols.claiming import sign_claim
from protocols.learner import Trained
from protocols.messages import TrainedModel
from protocols.transport import Answer, BlobSource, MayFetch, Transport
from sampling.peers import PeerId, Round
from verify.claims import Claim
from verify.digest import Digest


def garbage(gang: Gang) -> Conduct:
    def spoilt(data: bytes) -> bytes:
        """The first byte stays: with another version of the wire it would not be blamed."""
        return data[:1] + gang.rng.randbytes(max(0, len(data) - 1)) if gang.rng.random() < 0.5 else data

    def transport(honest: Transport) -> Transport:
        async def publish(topic: str, frame: bytes) -> None:
            await honest.publish(topic, spoilt(frame))

        async def request(peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
            own = peer == honest.me
            return await honest.request(peer, frame if own else spoilt(frame), timeout_s=timeout_s)

        def serve(answer: Answer, blobs: BlobSource, may_fetch: MayFetch) -> None:
            async def spoilt_answer(sender: PeerId, frame: bytes) -> bytes:
                found = await answer(sender, frame)
                return found if sender == honest.me else spoilt(found)

            def read(digest: Digest, offset: int, length: int) -> bytes:
                return spoilt(blobs.read(digest, offset, length))

            honest.serve(spoilt_answer, bent(blobs, read=read), may_fetch)

        return bent(honest, publish=publish, request=request, serve=serve)

    return Conduct(transport=transport)


def equivocator(gang: Gang) -> Conduct:
    second: dict[Digest, Digest] = {}  # of each update that it made
    alive: list[Node] = []

    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def train(parent: Digest, round: Round, *, seed: int) -> Trained:
            first, other = [await honest.train(parent, round, seed=seed + each) for each in range(2)]
            second[first.model] = other.model
            return first

        return bent(honest, train=train)

    def transport(honest: Transport) -> Transport:
        async def request(peer: PeerId, frame: bytes, *, timeout_s: float) -> bytes:
            message = wire.decode(frame)
            if isinstance(message, TrainedModel) and hash_bit(peer):
                frame = wire.encode(_claiming(alive[0], message, second[Digest(message.model)]))
            return await honest.request(peer, frame, timeout_s=timeout_s)

        return bent(honest, request=request)

    async def live(node: Node) -> None:
        alive[:] = [node]
        await node.run()

    return Conduct(learner=learner, transport=transport, live=live)


def _claiming(node: Node, message: TrainedModel, model: Digest) -> TrainedModel:
    """The same claim of another model, signed as well."""
    parts = node.parts
    claim = Claim(parts.desk.me, message.round, message.parent, message.data, model, message.samples)
    signature = sign_claim(parts.signer, parts.membership.run_id, claim)
    return msgspec.structs.replace(message, model=model, signature=signature)


def hash_bit(peer: PeerId) -> bool:
    """Into which half of the swarm a peer falls, whatever the interpreter's hash seed."""
    return bool(ord(peer[-1]) & 1)


def false_aggregate(gang: Gang) -> Conduct:
    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def merge(models: Sequence[Digest], weights: Sequence[int]) -> Digest:
            return await honest.merge(models[:1], weights[:1])

        return bent(honest, merge=merge)

    return Conduct(learner=learner)


def false_answer(gang: Gang) -> Conduct:
    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def answer(model: Digest, question: bytes) -> bytes:
            scores = np.frombuffer(await honest.answer(model, question), dtype="<f4")
            return (-scores).astype("<f4").tobytes()

        return bent(honest, answer=answer)

    return Conduct(learner=learner)
