"""Answering questions to the model, where the operator lets it: from the newest that is held, or from one named.

Anybody may ask; each is rationed, few wait at once, and an answer is given up before the asker would give it up, since
training may have the worker for long. Invariant: an answer is signed together with the digests of input and model, so
whoever lies has signed it; what is no input of the task is refused with a line, and costs nothing more.
"""

from __future__ import annotations

import trio

from protocols import limits
from protocols.head import Parts
from protocols.learner import LearnerError, Unanswerable, Unfit
from protocols.messages import AnswerIs, AskAnswer, Held, Refused
from protocols.rates import Grant, Rates
from protocols.signatures import verify
from protocols.training import Training
from sampling.peers import PeerId
from verify.claims import ANSWERED, Answered
from verify.digest import digest_of
from verify.standing import one_line

COMPUTE_S = 15.0  # for an answer, waiting included: less than `protocols.questions.ANSWER_S`


class Answering:
    def __init__(self, parts: Parts, training: Training) -> None:
        self._parts, self._training = parts, training
        self._waiting = 0
        self._rates = Rates[PeerId](
            limits.ANSWERS_PER_PEER_PER_S,
            limits.ANSWERS_PER_S,
            burst_s=limits.ANSWERS_BURST_S,
            remembered=limits.VIEW_PEERS,
        )
        parts.desk.on(AskAnswer, self._on_ask)

    async def _on_ask(self, sender: PeerId, question: AskAnswer) -> AnswerIs | Refused:
        known = self._parts.desk.known(sender)
        granted = self._rates.take(sender, trio.current_time(), known=known) is Grant.YES
        if not granted or self._waiting >= limits.ANSWERS_WAITING:
            return Refused("too many questions to the model: ask again later")
        models = self._training.models
        source = next((each for each in models if question.model in (b"", each.model)), None)
        if source is None:
            return Refused("that model is not held here" if question.model else "no trained model is held here yet")
        self._waiting += 1
        try:
            return await self._answer(source, models[: limits.MODELS_OFFERED], question.question)
        finally:
            self._waiting -= 1

    async def _answer(self, source: Held, others: list[Held], question: bytes) -> AnswerIs | Refused:
        try:
            with trio.fail_after(COMPUTE_S):
                output = await self._parts.learner.answer(source.model, question)
        except trio.TooSlowError:
            return Refused("busy training: ask again later")
        except (Unanswerable, Unfit, LearnerError) as error:
            return Refused(one_line(str(error)))
        if len(output) > limits.OUTPUT_BYTES:
            return Refused(f"an answer of {len(output)} bytes, at most {limits.OUTPUT_BYTES}: ask about fewer examples")
        claim = answered(self._parts.desk.me, source, question, output)
        signature = self._parts.signer.sign(ANSWERED, self._parts.membership.run_id, claim.statement)
        return AnswerIs(source, output, tuple(others), signature)


def answered(peer: PeerId, source: Held, question: bytes, output: bytes) -> Answered:
    return Answered(peer, source.round, source.model, digest_of(question), digest_of(output))


def answer_holds(peer: PeerId, question: bytes, answer: AnswerIs, run: bytes) -> bool:
    """Did that peer sign it?"""
    claim = answered(peer, answer.source, question, answer.output)
    return verify(peer, ANSWERED, run, claim.statement, answer.signature)
