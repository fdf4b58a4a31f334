"""A question to the model, put to three of those who hold it: the asker's side.

The three are the first that answer, in an order that the asker draws; whoever is silent, refuses or signs wrongly is
replaced by the next, but nobody for what it holds: else a liar could choose, by what it says that it holds, with whom
it sits. If they answered from different models, they are asked again from the newest that all hold, or, if that is old
or there is none, the newest that two of them hold; each such model is tried until most of the three agree. In a run in
which each has a model of its own, the classes that they name are compared.
Invariant: two of the three must give the same wrong answer for it to be taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from protocols.answering import answer_holds
from protocols.desk import Desk
from protocols.messages import AnswerIs, AskAnswer, Held
from protocols.transport import TransportError
from sampling.peers import PeerId
from verify.answers import majority, scores_of
from verify.lsh import Tolerance

PANEL = 3
ASKED = 32  # peers at most, for three that answer
COMPARED = 3  # models on which the panel is asked to agree, one after another
ANSWER_S = 20.0  # of a peer; the real transport gives an answer up after 30


@dataclass(slots=True)
class Poll:
    """What became of a question."""

    panel: dict[PeerId, AnswerIs] = field(default_factory=dict)  # in the order drawn; of each its last answer
    silent: dict[PeerId, str] = field(default_factory=dict)  # who gave no answer that counts, and why
    source: Held | None = None  # the model on which they were compared last, if it was one
    agreed: tuple[PeerId, ...] = ()  # if they are most of the panel


@dataclass(frozen=True, slots=True)
class Terms:
    """How answers are compared."""

    rows: int  # examples in the question
    tolerance: Tolerance | None  # None: each has a model of its own
    slack: int  # rounds: how much older a model may be for all of the panel to hold it
    seed: Callable[[], bytes]  # 32 bytes of chance, drawn anew once the outputs are known


class Asker:
    def __init__(self, desk: Desk, run: bytes, question: bytes, terms: Terms) -> None:
        self._desk, self._run, self._question, self._terms = desk, run, question, terms
        self.poll = Poll()

    async def ask(self, order: Sequence[PeerId]) -> Poll:
        """`order`: whom to ask, drawn by the asker. The panel is smaller than PANEL if fewer answer."""
        await self._seat(order[:ASKED])
        if self._terms.tolerance is None:
            self.poll.agreed = self._agreeing(self.poll.panel)
            return self.poll
        for source in shared(list(self.poll.panel.values()), self._terms.slack)[:COMPARED]:
            await self._gather(source)
            same_model = {peer: answer for peer, answer in self.poll.panel.items() if answer.source == source}
            self.poll.source, self.poll.agreed = source, self._agreeing(same_model)
            if self.poll.agreed:
                break
        return self.poll

    async def _seat(self, order: Sequence[PeerId]) -> None:
        """The first PANEL that answer, each from its newest model."""
        left, panel = iter(order), self.poll.panel
        async with trio.open_nursery() as nursery:
            for _ in range(PANEL):
                nursery.start_soon(self._fill, left)
        self.poll.panel = {peer: panel[peer] for peer in order if peer in panel}

    async def _fill(self, left: Iterator[PeerId]) -> None:
        """One place."""
        for peer in left:
            if await self._put_to(peer, b""):
                return

    async def _gather(self, source: Held) -> None:
        """Answers from that model, of all who say that they hold it."""
        async with trio.open_nursery() as nursery:
            for peer, answer in self.poll.panel.items():
                if answer.source != source and source in answer.others:
                    nursery.start_soon(self._put_to, peer, source.model)

    async def _put_to(self, peer: PeerId, model: bytes) -> bool:
        """True if it answered as it should."""
        try:
            answer = await self._desk.ask(peer, AskAnswer(self._question, model), AnswerIs, ANSWER_S)
        except TransportError as error:
            self.poll.silent[peer] = str(error)
            return False
        if not answer_holds(peer, self._question, answer, self._run):
            self.poll.silent[peer] = "its signature does not hold"
        elif model not in (b"", answer.source.model):
            self.poll.silent[peer] = "it answered from another model than it was asked to"
        else:
            self.poll.panel[peer] = answer
            return True
        return False

    def _agreeing(self, answers: Mapping[PeerId, AnswerIs]) -> tuple[PeerId, ...]:
        outputs = [scores_of(answer.output, self._terms.rows) for answer in answers.values()]
        chosen = majority(outputs, PANEL, self._terms.seed(), self._terms.tolerance)
        return tuple(list(answers)[index] for index in chosen)


def shared(answers: Sequence[AnswerIs], slack: int) -> list[Held]:
    """Models that two or more of them hold, in the order in which to compare on them: the newest first, but before it
    the newest that all hold, unless that is much older."""
    named = Counter(each for answer in answers for each in {answer.source, *answer.others})
    several = sorted((each for each in named if named[each] >= 2), key=lambda e: (e.round, e.model), reverse=True)
    common = next((each for each in several if named[each] == len(answers)), None)
    if common is None or several[0].round - common.round > slack:
        return several
    return [common, *(each for each in several if each != common)]
