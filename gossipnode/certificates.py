"""Certificates as files: written by a node beside its state, checked by anyone without a network (`gossipnode audit`).

A file holds the signed manifest, the certificate and who could have been an auditor as the writer saw it; signatures,
draw, votes and verdict are computed anew from it by the code that judges in a running node (`protocols.evidence`).
Invariant: a file that says OK proves the verdict to whoever trusts its list of candidates, the one thing in it that
nobody can sign; with --replay the claimed work itself is done again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from gossipnode.convictions import check_convicted, file_name
from gossipnode.errors import OperatorError, reason
from gossipnode.files import write_whole
from gossipnode.home import Home
from gossipnode.toml import load_manifest
from protocols.amendments import SignedManifest, open_signed, present
from protocols.claiming import culprit, proof_holds, shard_of
from protocols.evidence import Case, Evidence, ill_drawn, ill_voted, opened
from protocols.limits import MIB
from protocols.manifest import BadManifest, Manifest, chain_rules
from protocols.messages import Broken, Certificate, Proof, Twice
from protocols.ownclaims import Convicted, Docket
from sampling.peers import PeerId
from verify.claims import Vote
from verify.digest import short
from verify.lsh import Signature, distance
from verify.standing import QUARANTINE_ROUNDS
from verify.tally import DECIDED, Stage

VERSION: Final = 1
FILE_BYTES: Final = 4 * MIB  # of a file that is read: candidates of a full view, and a certificate


class Filed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is in a file."""

    version: int
    manifest: bytes
    candidates: tuple[PeerId, ...]
    certificate: Certificate | None = None
    proof: Proof | None = None
    convicted: Convicted | None = None


def write_certificates(folder: Path, signed: SignedManifest, docket: Docket) -> None:
    """One file for each that is decided. Raises OSError."""
    manifest = signed.encode()
    evidence = Evidence(signed.run, present(signed).audit, lambda: docket.candidates)
    for each in docket.certificates:
        case = opened(each)
        assert case is not None, "what is on the docket was opened before"
        for vote in each.votes:
            case.ballot.add(vote)
        if evidence.undecided(case):
            continue
        name = f"{case.round}-{short(case.claim)}"
        _write(folder / f"{name}.cert", Filed(VERSION, manifest, docket.candidates, certificate=each))
    for proof in docket.proofs:
        name = f"{proof.round}-{culprit(proof)[-8:]}-{'twice' if isinstance(proof, Twice) else 'broken'}"
        _write(folder / f"{name}.cert", Filed(VERSION, manifest, (), proof=proof))
    for convicted in docket.convicted:
        _write(folder / f"{file_name(convicted)}.cert", Filed(VERSION, manifest, (), convicted=convicted))


def _write(path: Path, filed: Filed) -> None:
    data = msgspec.msgpack.encode(filed)
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_whole(path, data)


def read_certificate(path: Path) -> Filed:
    """Raises OperatorError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {reason(error)}") from error
    try:
        filed = msgspec.msgpack.decode(data[:FILE_BYTES], type=Filed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise OperatorError(f"{path} is no certificate of gossipnode: {str(error)[:100]}") from error
    if filed.version != VERSION:
        raise OperatorError(f"{path}: certificate version {filed.version}; this gossipnode knows version {VERSION}")
    return filed


def audit_command(path: Path, home: Path | None, *, replay: bool) -> tuple[list[str], bool]:
    """The lines to show, and whether everything holds. Raises OperatorError."""
    if replay and home is None:
        raise OperatorError("--replay needs --home: the folder of a node that still has the models")
    filed = read_certificate(path)
    if replay and filed.convicted is not None:
        raise OperatorError(
            "--replay: a chain keeps no A from before its last certified checkpoint, so wrong bytes cannot be probed "
            "again: leave it out"
        )
    run = load_manifest(Home(home).manifest).run if home is not None else None
    found, case, manifest = check_certificate(filed, run)
    if replay and case is not None and home is not None and manifest is not None and filed.certificate is not None:
        from gossipnode.replay import work_again  # imports torch

        assert run is not None
        work_again(found, case, run, manifest, Home(home))
    return found.lines, found.holds


class Checked:
    """The lines to show, and whether all that the file says holds."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.holds = True

    def say(self, text: str) -> None:
        self.lines.append(text)

    def require(self, holds: bool, good: str, bad: str) -> bool:
        self.lines.append(f"ok    {good}" if holds else f"WRONG {bad}")
        self.holds &= holds
        return holds


def check_certificate(filed: Filed, run: bytes | None = None) -> tuple[Checked, Case | None, Manifest | None]:
    """`run`: the one that it must be of. The case is there if it was drawn and signed as it should be."""
    found = Checked()
    try:
        signed = open_signed(filed.manifest)
    except BadManifest as error:
        found.require(False, "", f"its manifest: {error}")
        return found, None, None
    manifest = present(signed)
    found.say(f"run   {signed.run.hex()[:12]} ({manifest.name}), signed by {manifest.author}")
    if run is not None and not found.require(run == signed.run, "of the run of this home", "of another run"):
        return found, None, manifest
    if filed.proof is not None:
        _check_proof(found, filed.proof, signed.run)
        return found, None, manifest
    if filed.convicted is not None:
        check_convicted(found, filed.convicted, signed.run, chain_rules(manifest))
        return found, None, manifest
    if filed.certificate is None:
        found.require(False, "", "there is no claim in it")
        return found, None, manifest
    return found, _check_case(found, filed, filed.certificate, signed.run, manifest), manifest


def _check_proof(found: Checked, proof: Proof, run: bytes) -> None:
    if isinstance(proof, Twice):
        found.say(f"two claims of {culprit(proof)} on one piece of work of round {proof.round}")
        good = f"both are signed, and name {short(proof.first.model)} and {short(proof.second.model)}"
        bad = "they are not two signed claims of one trainer on the same work"
    else:
        found.say(f"commitment and vote of {culprit(proof)}, an auditor of claim {short(proof.vote.claim)}")
        good, bad = _broken(proof), "they are not both signed by it, or the vote is what it had committed to"
    if found.require(proof_holds(proof, run), good, bad):
        found.say(f"ok    verdict: {culprit(proof)} is expelled")


def _broken(broken: Broken) -> str:
    bound, voted = short(broken.commitment), short(broken.vote.commitment)
    return f"both are signed; it had committed to {bound}, and voted on {voted}"


def _check_case(found: Checked, filed: Filed, certificate: Certificate, run: bytes, manifest: Manifest) -> Case | None:
    case = opened(certificate)
    if case is None:
        found.require(False, "", "it names a claim that its aggregate does not have")
        return None
    found.say(_described(case))
    wrong = ill_drawn(case, run, manifest.audit)
    fraction = manifest.audit.fraction
    if not found.require(
        wrong is None, f"claims and beacon are signed; drawn (audit.fraction {fraction:g})", str(wrong)
    ):
        return None
    evidence = Evidence(run, manifest.audit, lambda: filed.candidates)
    order, bench = evidence.order(case), evidence.bench(case)
    for vote in certificate.votes:
        doubt = ill_voted(case, vote, run, manifest.audit)
        if doubt is None and vote.auditor not in bench:
            doubt = "not among those who may vote"
        rank = order.index(vote.auditor) + 1 if vote.auditor in order else 0
        found.require(
            doubt is None, f"vote of auditor {rank}: {_voted(case, vote)}", f"vote of {vote.auditor}: {doubt}"
        )
        if doubt is None:
            evidence.vote(case, vote)
    verdict = evidence.verdict(case)
    said = f"verdict: {case.accused} is {verdict.stage}{_suspected(case) if verdict.stage is Stage.SUSPENDED else ''}"
    found.require(verdict.stage in DECIDED, said, "these votes decide nothing")
    return case


def _suspected(case: Case) -> str:
    agree, contradict = case.ballot.counts
    last = case.round + QUARANTINE_ROUNDS - 1
    return f" to round {last}: {contradict} of {agree + contradict} auditors suspect it, which is no proof"


def _described(case: Case) -> str:
    if case.made is None:
        return f"claim of {case.accused}: {short(case.model)} is the mean of round {case.round}"
    data = shard_of(case.made.data) or "private data"
    parent = short(case.aggregate.parent)
    return f"claim of {case.accused}: trained {short(case.model)} from {parent} in round {case.round} on {data}"


def _voted(case: Case, vote: Vote) -> str:
    word = "agrees" if vote.agrees else "contradicts"
    if case.made is None:
        return f"{word}: computed {short(vote.own)}" if vote.own else f"{word}: cannot be merged"
    if not vote.own or not vote.claimed:
        return f"{word}: the work cannot be done as claimed" if not vote.own else f"{word}: the bytes are no model"
    own, claimed = Signature.of(vote.own), Signature.of(vote.claimed)
    bits = distance(own, claimed)
    if case.probed:
        word = "finds nothing against it" if vote.agrees else "suspects it"
        return f"{word}: {bits} of 256 bits from an update of its own, norm {claimed.norm - own.norm:+} steps"
    return f"{word}: {bits} of 256 bits apart, norms {abs(own.norm - claimed.norm)} steps"
