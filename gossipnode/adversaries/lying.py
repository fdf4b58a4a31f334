"""Members that lie to their peers with honest training behind them.

* garbage: every second frame that it sends, asks, answers or serves is random bytes of the same length.
* equivocator: trains twice and offers one update to some aggregators, the other to the rest.
* false-aggregate: hands out, as the mean of a round's models, the first of them alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gossipnode.adversaries.bent import Gang, bent
from gossipnode.conduct import Conduct
from gossipnode.trainings import AnyLearner
from protocols import wire
from protocols.blobs import Blobs
from protocols.learner import Trained
from protocols.messages import TrainedModel
from protocols.transport import Answer, BlobSource, Transport
from sampling.peers import PeerId, Round
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

        def serve(answer: Answer, blobs: BlobSource) -> None:
            async def spoilt_answer(sender: PeerId, frame: bytes) -> bytes:
                found = await answer(sender, frame)
                return found if sender == honest.me else spoilt(found)

            def read(digest: Digest, offset: int, length: int) -> bytes:
                return spoilt(blobs.read(digest, offset, length))

            honest.serve(spoilt_answer, bent(blobs, read=read))

        return bent(honest, publish=publish, request=request, serve=serve)

    return Conduct(transport=transport)


def equivocator(gang: Gang) -> Conduct:
    second: dict[Digest, Digest] = {}  # of each update that it made

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
                other = second.get(Digest(message.model), Digest(message.model))
                frame = wire.encode(msgspec.structs.replace(message, model=other))
            return await honest.request(peer, frame, timeout_s=timeout_s)

        return bent(honest, request=request)

    return Conduct(learner=learner, transport=transport)


def hash_bit(peer: PeerId) -> bool:
    """Into which half of the swarm a peer falls, whatever the interpreter's hash seed."""
    return bool(ord(peer[-1]) & 1)


def false_aggregate(gang: Gang) -> Conduct:
    def learner(honest: AnyLearner, blobs: Blobs) -> AnyLearner:
        async def merge(models: Sequence[Digest], weights: Sequence[int]) -> Digest:
            return await honest.merge(models[:1], weights[:1])

        return bent(honest, merge=merge)

    return Conduct(learner=learner)
