"""The conversation of an audit in one-byte training: draw, probe again, vote; and what the votes amount to, in a block.

As in a run of models (`protocols.audit`), but that the bytes are public from the start, so there is nothing to commit
to before they are seen, and that the verdict is the chain's: whoever proposes next puts the votes into its block, and
from then on the liar is no member. Source: Generative AI Consensus (arXiv 2307.01898), `verify.tally`. Invariant:
nothing here decides what counts; a node that has not heard a single vote follows the same blocks.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Final

import trio

from protocols import limits
from protocols.chain.evidence import culprit
from protocols.chain.forks import Node
from protocols.chain.messages import WrongBytes, id_of
from protocols.claiming import sign_vote
from protocols.evidence import FORGED, UNKNOWN, Doubt, Judgement
from protocols.learner import LearnerError, Unfit
from protocols.messages import Voted
from protocols.onebyte.book import Book
from protocols.onebyte.cases import Case, Cases, agree, batch_seed, seeds_of
from protocols.onebyte.follower import Follower
from protocols.onebyte.messages import VOTES, AskVotes, VotesAre
from protocols.onebyte.parts import Parts
from protocols.ownclaims import Convicted
from protocols.training import AuditFigures, AuditVerdict
from protocols.transport import TransportError
from protocols.turns import Closed, Look, until_called
from sampling.patience import Patience
from sampling.peers import PeerId, Round
from verify.claims import Vote
from verify.digest import Digest, short
from verify.standing import OffenceKind
from verify.tally import DECIDED, Stage

log = logging.getLogger(__name__)

FIRST_AUDIT_S: Final = 5.0  # patience with an auditor before any has been measured
SHARE_S: Final = 15.0  # between two looks, jittered by half, at what votes a random partner has
ASK_S: Final = 10.0  # for an answer to that
FRESH: Final = 2  # windows: blocks that are older when we first see them have been audited by those who were there

Judged = Callable[[Judgement], None]


class Auditor:
    def __init__(self, parts: Parts, book: Book, follower: Follower, judged: Judged) -> None:
        """`judged` is told whenever the branch we follow has expelled others than before."""
        self._parts, self._book, self._follower, self._judged = parts, book, follower, judged
        timing = parts.manifest.timing
        self.cases = Cases(book.run, book.rules, parts.manifest.audit)
        self.convicted: dict[PeerId, Convicted] = {}
        self.audited = self.doubted = self.unable = 0
        self.probes = 0  # done again for audits
        self._patience = Patience(timing.round_floor_s, timing.round_ceiling_s, FIRST_AUDIT_S)
        self._seen: set[Digest] = set()  # blocks looked at
        self._attended: set[Digest] = set()  # cases with a task of ours
        self._opened_s: dict[Digest, float] = {}
        self._struck: set[tuple[PeerId, Digest]] = set()  # auditors, for which contradicted votes
        self._why: dict[PeerId, str] = {}
        self._expelled: frozenset[PeerId] = frozenset()

    async def run(self) -> None:
        """Until cancelled."""
        desk = self._parts.desk
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            desk.on(AskVotes, self._on_ask_votes)
            desk.on_gossip(Voted, self._on_voted)
            if self._parts.manifest.audit.fraction:
                nursery.start_soon(self._share)
            while True:
                self._look()
                tip = self._book.tip
                await self._book.bell.until(lambda tip=tip: self._book.tip is not tip)  # type: ignore[misc]  # mypy#12557

    @property
    def figures(self) -> AuditFigures:
        verdicts = (*self._convictions(), *self._doubts())
        return AuditFigures(self.audited, self.doubted, self.unable, self.cases.refused, verdicts)

    def _convictions(self) -> Iterator[AuditVerdict]:
        for peer, each in self.convicted.items():
            entry, votes = each.wrong.entry, len(each.wrong.votes)
            yield AuditVerdict(peer, True, Round(entry.height), Stage.EXPELLED, id_of(entry), 0, votes)

    def _doubts(self) -> Iterator[AuditVerdict]:
        """Of whom is a member yet."""
        state = self._book.tip.state
        for case in self.cases.all():
            if case.ballot.doubted and case.accused in state.members:
                stage = self.cases.verdict(case, state).stage
                yield AuditVerdict(case.accused, True, Round(case.entry.height), stage, case.claim, *case.ballot.counts)

    def why(self, peer: PeerId) -> str:
        """It was expelled. Who joined later does not know."""
        return self._why.get(peer, "by a block of before our time")

    # -- following the branch -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """At the blocks of our branch that are new to us: whom they draw, and whom they expel."""
        tip = self._book.tip
        for node in self._new_blocks(tip):
            self._note(node)
            for case in self.cases.open(node) if self._parts.manifest.audit.fraction else ():
                self._opened_s[case.claim] = trio.current_time()
                if case.ballot.doubted or tip.height - node.height <= FRESH * self._book.rules.window:
                    self._attend(case)
        self._opened_s = {case.claim: self._opened_s[case.claim] for case in self.cases.all()}
        self._judge()

    def _new_blocks(self, tip: Node) -> list[Node]:
        """Oldest first. What we have seen of branches is remembered as far as blocks are held."""
        fresh: list[Node] = []
        node: Node | None = tip
        while node is not None and node.digest not in self._seen:
            fresh.append(node)
            node = node.parent
        self._seen = {each for each in self._seen if self._book.chain.node(each) is not None}
        self._seen |= {node.digest for node in fresh}
        return fresh[::-1]

    def _note(self, node: Node) -> None:
        """Whom it expels, and why."""
        if node.block is None or node.parent is None:
            return
        for proof in node.block.changes.expulsions:
            peer = culprit(proof)
            self._why[peer] = "it has signed two things that exclude each other"
            if isinstance(proof, WrongBytes):
                members = tuple(sorted(node.parent.state.members))
                self.convicted[peer] = Convicted(node.height, node.digest, members, proof)
                while len(self.convicted) > limits.EVIDENCE:
                    del self.convicted[next(iter(self.convicted))]
                step, votes = proof.entry.height, len(proof.votes)
                self._why[peer] = f"its bytes of step {step}: {votes} auditors found others"

    def _judge(self) -> None:
        """What the votes amount to goes to the chain; what the chain says goes to whoever keeps the peers' standing."""
        state = self._book.tip.state
        for case in self.cases.all():
            if case.ballot.doubted:
                self._weigh(case)
        if state.expelled != self._expelled:
            self._expelled = state.expelled
            self._judged(Judgement(expelled={peer: self.why(peer) for peer in sorted(state.expelled)}))

    def _weigh(self, case: Case) -> None:
        state = self._book.tip.state
        verdict = self.cases.verdict(case, state)
        for auditor in verdict.contradicted:
            if (auditor, case.claim) not in self._struck and auditor not in (self._book.me, *state.expelled):
                self._struck.add((auditor, case.claim))
                detail = f"its vote on entry {short(case.claim)} is contradicted"
                self._parts.desk.accuse(auditor, OffenceKind.FALSE_VOTE, detail)
        if verdict.stage is Stage.EXPELLED and case.accused in state.members:
            proof, known = self.cases.proof(case, state), case.accused in self._book.chain.equivocators
            if proof is not None and self._book.chain.convict(proof) and not known:
                log.warning("step %d: the bytes of %s are wrong", case.entry.height, case.accused)

    # -- attending to a case ------------------------------------------------------------------------------------------

    def _attend(self, case: Case) -> None:
        """If we may be called."""
        me = self._book.me
        idle = case.claim not in self._attended and me not in case.ballot.kinds
        if idle and self._can(case) and me in self.cases.bench(case, self._book.tip.state):
            self._attended.add(case.claim)
            self._nursery.start_soon(self._see_to, case)

    def _can(self, case: Case) -> bool:
        """What private data gave nobody can say, but a run may ask for data that others can make again."""
        policy = self._parts.manifest.audit.policy
        return policy == "replay" and self._had_time(case) if case.shard is None else policy in ("auto", "replay")

    def _had_time(self, case: Case) -> bool:
        """A founder is a member before its Join says on what it trains."""
        return case.base.height >= self._book.rules.epoch

    async def _see_to(self, case: Case) -> None:
        try:
            book, patience = self._book, self._patience
            me, bell = book.me, book.bell
            await until_called(me, bell, patience, lambda: self._stands(case), lambda: (case.ballot.counts, book.tip))
            await self._publish(case, await self._vote(case))
        except Closed:
            pass
        except LearnerError as error:
            self.unable += 1
            log.info("the entry of %s of step %d cannot be audited here: %s", case.accused, case.entry.height, error)
        finally:
            self._attended.discard(case.claim)

    def _stands(self, case: Case) -> Look:
        """Raises Closed."""
        book, state = self._book, self._book.tip.state
        if book.finished or not book.follows(case.base) or case.accused not in state.members:
            raise Closed
        return Look(self.cases.verdict(case, state).stage, self.cases.order(case, state), self.cases.appeal(state))

    async def _vote(self, case: Case) -> Vote:
        """Raises LearnerError."""
        own, shard, book = b"", case.shard, self._book
        if shard is not None:
            seeds = seeds_of(book.run, case.base.state, case.accused, book.rules.probes)
            try:
                own = await self._follower.again(case.base, seeds, batch_seed(book.run, case.base, case.accused), shard)
                self.probes += len(seeds)
            except Unfit as error:
                log.info("%s claims what cannot be done: %s", case.accused, error)
        agrees = agree(own, case.entry.scalars)
        return sign_vote(self._parts.signer, book.run, Vote(book.me, case.claim, agrees, own, b"", b"", b""))

    async def _publish(self, case: Case, vote: Vote) -> None:
        self.audited += 1
        if not vote.agrees:
            self.doubted += 1
            log.warning("step %d: what %s claims does not hold here", case.entry.height, case.accused)
        if self.cases.vote(case, vote, self._book.tip.state) is None:
            self._voted(case)
        await self._parts.desk.tell(self._parts.membership.topic, Voted(Round(case.entry.height), vote))

    def _voted(self, case: Case) -> None:
        """Somebody has: others may be called now, and it may be decided."""
        if (opened_s := self._opened_s.get(case.claim)) is not None and sum(case.ballot.counts) == 1:
            self._patience.heard(trio.current_time() - opened_s)
        if case.ballot.doubted:
            self._judge()
            if self.cases.verdict(case, self._book.tip.state).stage not in DECIDED:
                self._attend(case)
        self._book.bell.ring()

    # -- what others tell and ask -------------------------------------------------------------------------------------

    async def _on_voted(self, origin: PeerId, message: Voted) -> None:
        await trio.lowlevel.checkpoint()
        self._heard(origin, message.vote)

    def _heard(self, sender: PeerId, vote: Vote) -> None:
        case = self.cases.get(vote.claim)
        if case is None:
            return  # of blocks that we do not have yet, or no more: votes are asked for now and then
        before = case.ballot.counts
        self._blame(sender, self.cases.vote(case, vote, self._book.tip.state))
        if case.ballot.counts != before:
            self._voted(case)

    def _blame(self, sender: PeerId, doubt: Doubt) -> None:
        """Who passes on what does not hold should have checked; what we cannot check may be true."""
        if doubt is not None and doubt != UNKNOWN:
            kind = OffenceKind.BAD_SIGNATURE if doubt == FORGED else OffenceKind.PROTOCOL
            self._parts.desk.accuse(sender, kind, f"an audit: {doubt}")

    async def _on_ask_votes(self, sender: PeerId, question: AskVotes) -> VotesAre:
        return VotesAre(tuple(itertools.islice(self.cases.lacking(frozenset(question.have)), VOTES)))

    async def _share(self) -> None:
        while True:
            await trio.sleep(SHARE_S * self._parts.rng.uniform(0.5, 1.5))
            partners = self._parts.membership.partners()
            if not partners or self._book.finished:
                continue
            peer = self._parts.rng.choice(partners)
            try:
                answer = await self._parts.desk.ask(peer, AskVotes(self.cases.have()), VotesAre, ASK_S)
            except TransportError:
                continue
            for vote in answer.votes:
                self._heard(peer, vote)
