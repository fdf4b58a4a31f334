"""`gossipnode ask`: a question to the model of a run, put to three of its nodes by somebody who takes no part in it.

The manifest and the members' addresses come from --peers (`gossipnode.visitor`), the task from this machine; then
`protocols.questions` asks. Invariant: what is printed as agreed, most of the three have signed; a file that is no input
of the task is refused here, before anybody is bothered with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from gossipnode.config import peers_from
from gossipnode.errors import OperatorError, reason
from gossipnode.files import write_whole
from gossipnode.identity import load_network_key
from gossipnode.learn.questions import in_words, read_question
from gossipnode.learn.task import Task, load_task
from gossipnode.log import set_up_log
from gossipnode.net.libp2p.transport import open_libp2p
from gossipnode.newrun import checked_task
from gossipnode.visitor import Visitor
from protocols import limits
from protocols.amendments import present
from protocols.learner import LearnerError, Unanswerable
from protocols.manifest import Manifest
from protocols.messages import AnswerIs
from protocols.questions import PANEL, Asker, Poll, Terms
from protocols.transport import Transport
from sampling.peers import PeerId
from verify.answers import scores_of
from verify.claims import answerers
from verify.digest import digest_of
from verify.lsh import SEED_BYTES, Tolerance
from verify.standing import one_line

WIDE_CHARS = 160  # of what one peer answered, on the terminal

Chance = Callable[[int], bytes]  # so many bytes of it


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One peer's, as --json has it: with input and run, all that its signature is of."""

    peer: str
    agrees: bool
    round: int
    model: str
    words: list[str]
    output: str  # little-endian float32, in hex
    signature: str


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """The file of --json."""

    run: str
    task: str
    question: str  # digest of the input file
    agreed: bool
    answer: list[str] = []  # one line an example; empty if they disagree
    scores: list[list[float]] = []
    round: int | None = None
    model: str | None = None
    answers: list[Answer]
    silent: dict[str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question in the terms of a run's task."""

    task: Task
    rows: int


def ask_command(
    peers: Sequence[str], path: Path, task: str, psk: Path | None, target: Path | None
) -> tuple[list[str], bool]:
    """The lines to show, and whether most agree. Raises OperatorError."""
    set_up_log("error", as_json=False)
    addresses = peers_from(peers)
    question = read_input(path)
    answers = trio.run(_over_libp2p, addresses, question, partial(prepared, path, question, task), psk)
    if target is not None:
        try:
            write_whole(target, msgspec.json.format(msgspec.json.encode(answers)) + b"\n")
        except OSError as error:
            raise OperatorError(f"--json {target}: cannot be written: {reason(error)}") from error
    return lines_of(answers), answers.agreed


def read_input(path: Path) -> bytes:
    """Raises OperatorError."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.QUESTION_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"--input {path}: {reason(error)}") from error
    if not 0 < len(data) <= limits.QUESTION_BYTES:
        raise OperatorError(f"--input {path}: 1 to {limits.QUESTION_BYTES} bytes can be asked about at once")
    return data


def prepared(path: Path, question: bytes, own_task: str, manifest: Manifest) -> Prepared:
    """Found to be an input here, before anybody is bothered with it. Raises OperatorError."""
    task = load_task(checked_task(manifest, own_task))
    try:
        return Prepared(task, len(read_question(task, question)[0]))
    except (Unanswerable, LearnerError) as error:
        raise OperatorError(f"--input {path}: no input of the task {manifest.task}: {error}") from error


async def _over_libp2p(
    addresses: Sequence[str], question: bytes, prepare: Callable[[Manifest], Prepared], psk: Path | None
) -> Answers:
    """Under a name that nobody has heard, and nobody will hear again."""
    key = load_network_key(psk) if psk else None
    async with open_libp2p(secrets.token_bytes(32), psk=key) as transport:
        return await ask(transport, addresses, question, prepare, secrets.token_bytes)


async def ask(
    transport: Transport,
    addresses: Sequence[str],
    question: bytes,
    prepare: Callable[[Manifest], Prepared],
    chance: Chance,
) -> Answers:
    """Raises OperatorError."""
    visitor = Visitor(transport)
    signed = await visitor.meet(addresses)
    manifest = present(signed)
    asked = prepare(manifest)
    candidates = await visitor.members(signed.run)
    audit = manifest.audit
    terms = Terms(
        rows=asked.rows,
        tolerance=None if manifest.protocol == "gossip" else Tolerance(audit.tolerance_bits, audit.tolerance_norm),
        slack=2 * manifest.modest.pull_every,  # a node holds every so-manieth model at least
        seed=partial(chance, SEED_BYTES),
    )
    order = answerers(candidates, chance(SEED_BYTES), digest_of(question))
    poll = await Asker(visitor.desk, signed.run, question, terms).ask(order)
    if len(poll.panel) < PANEL:
        raise OperatorError(_too_few(poll, len(order)))
    return answers_of(signed.run, manifest, question, asked, poll)


def _too_few(poll: Poll, candidates: int) -> str:
    why = "; ".join(f"…{peer[-6:]}: {text}" for peer, text in list(poll.silent.items())[:PANEL])
    return (
        f"{len(poll.panel)} of {candidates} peers answered, {PANEL} are needed; nodes answer that hold a model and run "
        f"with --answers{f' ({why})' if why else ''}"
    )


# -- what is shown ----------------------------------------------------------------------------------------------------


def answers_of(run: bytes, manifest: Manifest, question: bytes, asked: Prepared, poll: Poll) -> Answers:
    answers = [_one(peer, answer, asked, peer in poll.agreed) for peer, answer in poll.panel.items()]
    chosen = poll.panel[poll.agreed[0]] if poll.agreed else None
    scores = None if chosen is None else scores_of(chosen.output, asked.rows)
    return Answers(
        run=run.hex(),
        task=manifest.task,
        question=digest_of(question).hex(),
        agreed=chosen is not None,
        answer=[] if chosen is None else _words(chosen, asked),
        scores=[] if scores is None else scores.tolist(),
        round=poll.source.round if poll.source else None,
        model=poll.source.model.hex() if poll.source else None,
        answers=answers,
        silent={peer: one_line(text) for peer, text in poll.silent.items()},
    )


def _one(peer: PeerId, answer: AnswerIs, asked: Prepared, agrees: bool) -> Answer:
    return Answer(
        peer=peer,
        agrees=agrees,
        round=answer.source.round,
        model=answer.source.model.hex(),
        words=_words(answer, asked),
        output=answer.output.hex(),
        signature=answer.signature.hex(),
    )


def _words(answer: AnswerIs, asked: Prepared) -> list[str]:
    scores = scores_of(answer.output, asked.rows)
    if scores is None:
        return ["no scores of these inputs"]
    try:
        return [one_line(text) for text in in_words(asked.task, scores)]
    except Exception as error:  # the operator's own code, given whatever a peer has sent
        return [one_line(f"scores that the task cannot read: {error}")]


def lines_of(answers: Answers) -> list[str]:
    lines = [f"run       {answers.run[:12]} ({answers.task})"]
    if answers.round is not None and answers.model is not None:
        lines.append(f"model     {answers.model[:12]} of round {answers.round}")
    lines += [f"answer    {text}" for text in answers.answer] or [f"answer    none: the {PANEL} peers disagree"]
    lines += [_line(each, answers) for each in answers.answers]
    return lines + [f"silent    {peer}: {why}" for peer, why in answers.silent.items()]


def _line(each: Answer, answers: Answers) -> str:
    said = "; ".join(each.words)[:WIDE_CHARS]
    if each.model == answers.model and each.agrees:
        return f"agrees    {each.peer}"
    if each.model == answers.model:
        return f"{'DISAGREES' if answers.agreed else 'says     '} {each.peer}: {said}"
    told = f"{each.peer}: {said} (its model is {each.model[:12]} of round {each.round})"
    if answers.model is None and answers.agreed:  # each has a model of its own
        return f"{'agrees   ' if each.agrees else 'DISAGREES'} {told}"
    return f"apart     {told}"
