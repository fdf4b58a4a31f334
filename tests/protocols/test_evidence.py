"""What may come in by the doors of the evidence, each forged in its own way, and certificates as files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gossipnode.certificates import Filed, check_certificate, read_certificate, write_certificates
from gossipnode.errors import OperatorError
from protocols.amendments import sign
from protocols.claiming import claim_of, link_of, private_data, sign_claim, sign_vote, signed, whole
from protocols.evidence import FORGED, UNKNOWN, Case, Evidence
from protocols.manifest import Audit, Manifest
from protocols.messages import Aggregate, Broken, Certificate, Input, Twice
from protocols.ownclaims import Docket
from protocols.signatures import Signer
from sampling.peers import Round
from verify.claims import COMMITTED, UNBOUND, VOTED, Vote, bound
from verify.digest import Digest, digest_of
from verify.lsh import Signature
from verify.probe import OPPOSED
from verify.standing import QUARANTINE_ROUNDS
from verify.tally import Stage

SIGNERS = [Signer.from_seed(bytes([number] * 32)) for number in range(8)]
PEERS = [signer.peer for signer in SIGNERS]
MANIFEST = Manifest(
    name="toy",
    protocol="modest",
    task="digits",
    author=PEERS[0],
    theta0=digest_of(b"theta0").hex(),
    model_bytes=10,
    audit=Audit(fraction=1.0),
)
SIGNED = sign(MANIFEST, SIGNERS[0])
RUN = SIGNED.run
PARENT = digest_of(b"theta0")


def made_by(index: int, model: bytes, run: bytes = RUN) -> Input:
    unsigned = Input(PEERS[index], digest_of(model), 10, b"s0/8 iid 0")
    signature = sign_claim(SIGNERS[index], run, claim_of(Round(1), PARENT, unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


def aggregate(round: int, parent: bytes, inputs: tuple[Input, ...], run: bytes = RUN) -> Aggregate:
    name = b"mean" + bytes([round])
    return signed(Aggregate(Round(round), digest_of(name), parent, inputs, (PEERS[7],)), SIGNERS[7], run)


def certificate(run: bytes = RUN) -> Certificate:
    """Of the update of PEERS[1], which nobody has voted on yet."""
    first = aggregate(1, PARENT, (made_by(1, b"a", run), made_by(2, b"b", run)), run)
    second = signed(
        Aggregate(Round(2), digest_of(b"next"), first.model, (made_by(3, b"c", run),), (PEERS[6],)), SIGNERS[6], run
    )
    return Certificate(first, PEERS[1], True, link_of(second), ())


def evidence(fraction: float = 1.0) -> Evidence:
    return Evidence(RUN, Audit(fraction=fraction), lambda: PEERS)


def case() -> Case:
    made = certificate()
    return Case(made.aggregate, made.beacon, made.aggregate.inputs[0])


def vote(index: int, *, agrees: bool, of: Case | None = None) -> Vote:
    own = bytes(Signature(bytes(32), 0))
    claimed = own if agrees else bytes(Signature(b"\xff" * 32, 0))
    unsigned = Vote(PEERS[index], (of or case()).claim, agrees, own, claimed, bytes(16), b"")
    return sign_vote(SIGNERS[index], RUN, unsigned)


def with_votes(*votes: Vote) -> Certificate:
    return msgspec.structs.replace(certificate(), votes=votes)


def convicting() -> Certificate:
    return with_votes(*(vote(index, agrees=False) for index in (0, 2, 3, 4, 5)))


def test_a_certificate_convicts_whom_it_names() -> None:
    held = evidence()
    assert held.certify(convicting()) is None
    judgement = held.judgement(Round(5))
    assert list(judgement.expelled) == [PEERS[1]]
    assert "5 of 5 auditors" in judgement.expelled[PEERS[1]]
    assert held.certify(convicting()) is None  # merging is idempotent
    assert held.judgement(Round(5)) == judgement


def test_votes_that_come_in_any_order_judge_alike() -> None:
    votes = [vote(index, agrees=index % 3 == 0) for index in (0, 2, 3, 4, 5, 6, 7)]
    one, other = evidence(), evidence()
    for each in votes:
        one.certify(with_votes(each, vote(2, agrees=False)))
    for each in reversed(votes):
        other.certify(with_votes(each, vote(2, agrees=False)))
    assert one.judgement(Round(5)) == other.judgement(Round(5))


def test_a_panel_that_doubts_calls_the_appeal_and_puts_nobody_out() -> None:
    """Three auditors have a lying majority too often."""
    held = evidence()
    held.certify(with_votes(*(vote(index, agrees=False) for index in (0, 2, 3))))
    (doubted,) = held.doubted()
    assert held.verdict(doubted).stage is Stage.APPEALED
    judgement = held.judgement(Round(5))
    assert (judgement.expelled, judgement.wrong, judgement.contradicted) == ({}, {}, ())
    assert judgement.undecided == (doubted.model,)


def near(index: int, bits: int) -> Vote:
    """A vote whose figures are so many bits apart; it says what they say."""
    flipped = ((1 << bits) - 1).to_bytes(32, "little")
    own, claimed = bytes(Signature(bytes(32), 0)), bytes(Signature(flipped, 0))
    agreed = bits <= Audit().tolerance_bits
    unsigned = Vote(PEERS[index], case().claim, agreed, own, claimed, bytes(16), b"")
    return sign_vote(SIGNERS[index], RUN, unsigned)


@pytest.mark.parametrize(("doubt", "others", "blamed"), [(9, (7, 8), False), (60, (0, 0), True), (9, (0, 0), True)])
def test_who_is_outvoted_by_chance_is_not_blamed(doubt: int, others: tuple[int, int], blamed: bool) -> None:
    """A claim at the edge of the tolerance makes honest auditors contradict each other: that is its maker's aim."""
    held = evidence()
    first, *rest = (PEERS.index(peer) for peer in held.order(case())[:3])
    votes = [near(first, doubt), *(near(index, bits) for index, bits in zip(rest, others, strict=True))]
    held.certify(with_votes(*votes))
    (doubted,) = held.doubted()
    assert held.verdict(doubted).stage is Stage.CLEARED
    assert [peer for peer, _ in held.judgement(Round(5)).contradicted] == [PEERS[first]] * blamed


def test_expulsion_lapses_when_the_manifest_says_so() -> None:
    held = Evidence(RUN, Audit(fraction=1.0, readmit_rounds=10), lambda: PEERS)
    held.certify(convicting())
    assert held.judgement(Round(10)).expelled
    assert not held.judgement(Round(11)).expelled


def garbled(data: bytes) -> bytes:
    return bytes([data[0] ^ 1, *data[1:]])


def test_a_forged_claim() -> None:
    made = convicting()
    first = made.aggregate.inputs[0]
    inputs = (msgspec.structs.replace(first, signature=garbled(first.signature)), made.aggregate.inputs[1])
    forged = signed(msgspec.structs.replace(made.aggregate, inputs=inputs), SIGNERS[7], RUN)
    held = evidence()
    assert held.certify(msgspec.structs.replace(made, aggregate=forged)) == FORGED
    assert (held.refused, held.judgement(Round(5)).expelled) == (1, {})


def test_a_forged_aggregate_is_not_taken_for_the_one_it_equals() -> None:
    made = certificate().aggregate
    assert whole(made, RUN)
    assert not whole(msgspec.structs.replace(made, signature=garbled(made.signature)), RUN)


def test_a_certificate_of_another_run() -> None:
    held = evidence()
    assert held.certify(certificate(digest_of(b"another run"))) == FORGED
    assert held.cases == {}


def test_a_claim_that_was_not_drawn() -> None:
    assert evidence(fraction=1e-12).certify(convicting()) == "the claim was not drawn for an audit"


def test_a_beacon_of_another_round() -> None:
    made = convicting()
    beacon = msgspec.structs.replace(made.beacon, round=Round(3))
    assert evidence().certify(msgspec.structs.replace(made, beacon=beacon)) == "its beacon is not of the next round"


def test_a_peer_that_made_no_claim() -> None:
    assert evidence().certify(msgspec.structs.replace(convicting(), accused=PEERS[4])) == "it names no claim"


def test_evidence_that_nobody_doubts_is_not_kept() -> None:
    held = evidence()
    assert held.certify(with_votes(vote(0, agrees=True))) == "nobody doubts it"
    assert held.cases == {}


def test_a_strangers_vote() -> None:
    stranger = Signer.from_seed(b"s" * 32)
    cast = sign_vote(stranger, RUN, vote(0, agrees=False)._replace(auditor=stranger.peer))
    assert evidence().vote(case(), cast) == UNKNOWN


def test_the_accuseds_own_vote() -> None:
    assert evidence().vote(case(), vote(1, agrees=True)) == "a vote on something else"


def test_a_vote_that_its_auditor_did_not_sign() -> None:
    cast = vote(0, agrees=False)
    assert evidence().vote(case(), cast._replace(signature=garbled(cast.signature))) == FORGED
    assert evidence().vote(case(), cast._replace(auditor=PEERS[2])) == FORGED


@pytest.mark.parametrize("agrees", [True, False])
def test_a_vote_that_its_figures_do_not_bear_out(agrees: bool) -> None:
    cast = vote(0, agrees=agrees)._replace(agrees=not agrees)
    lie = cast._replace(signature=SIGNERS[0].sign(VOTED, RUN, cast.statement))
    assert evidence().vote(case(), lie) == "a vote that its own figures do not bear out"


def test_a_vote_without_figures() -> None:
    assert evidence().vote(case(), vote(0, agrees=False)._replace(own=b"x" * 33)) == "a vote without figures"


def test_who_votes_both_ways_does_not_vote() -> None:
    held, one = evidence(), case()
    assert held.vote(one, vote(0, agrees=False)) is None
    assert held.verdict(one).stage is Stage.ACCUSED
    assert held.vote(one, vote(0, agrees=True)) is None
    assert held.verdict(one).stage is Stage.OPEN


def test_two_claims_are_proof_only_if_both_are_signed_and_differ() -> None:
    first, second = made_by(1, b"a"), made_by(1, b"other")
    held = evidence()
    unsigned = msgspec.structs.replace(second, signature=bytes(64))
    assert held.prove(Twice(Round(1), PARENT, first, unsigned)) == FORGED
    assert held.prove(Twice(Round(1), PARENT, first, first)) == FORGED
    assert held.prove(Twice(Round(1), PARENT, first, made_by(2, b"a"))) == FORGED
    assert held.judgement(Round(2)).expelled == {}
    assert held.prove(Twice(Round(1), PARENT, first, second)) is None
    assert list(held.judgement(Round(2)).expelled) == [PEERS[1]]


def broken(index: int, commitment: Digest, cast: Vote | None = None) -> Broken:
    cast = cast or vote(index, agrees=True)
    return Broken(
        Round(1), commitment, SIGNERS[index].sign(COMMITTED, RUN, bound(Round(1), cast.claim, commitment)), cast
    )


def test_a_vote_on_another_result_than_was_committed_to_is_proof_only_if_both_are_signed() -> None:
    held, other = evidence(), digest_of(b"another result")
    good = broken(0, other)
    unsigned = good.vote._replace(signature=bytes(64))
    assert held.prove(broken(0, good.vote.commitment)) == FORGED  # it kept its word
    assert held.prove(broken(0, UNBOUND)) == FORGED  # it had bound itself to nothing
    assert held.prove(broken(2, other, good.vote)) == FORGED  # the commitment is somebody else's
    assert held.prove(msgspec.structs.replace(good, round=Round(7))) == FORGED
    assert held.prove(msgspec.structs.replace(good, vote=unsigned)) == FORGED
    assert held.judgement(Round(2)).expelled == {}
    assert held.prove(good) is None
    (why,) = held.judgement(Round(2)).expelled.values()
    assert why == "voted on another result than it had committed to, as an auditor of round 1"


# -- near the tolerance ------------------------------------------------------------------------------------------------


def apart(index: int, bits: int, norms: int = 0) -> Vote:
    """A vote whose figures are so far apart; up to 8 bits and 2 steps agree."""
    own, claimed = bytes(Signature(bytes(32), 0)), bytes(Signature(((1 << bits) - 1).to_bytes(32, "little"), norms))
    unsigned = Vote(PEERS[index], case().claim, bits <= 8 and norms <= 2, own, claimed, bytes(16), b"")
    return sign_vote(SIGNERS[index], RUN, unsigned)


@pytest.mark.parametrize(
    ("majority", "minority", "blamed"),
    [
        ((120, 0), (8, 0), True),  # who vouches for that has not looked
        ((10, 0), (8, 0), False),  # the seeds of honest auditors decide that
        ((10, 9), (8, 0), True),  # but the norm is the same under every seed
        ((0, 0), (120, 0), True),
        ((6, 0), (9, 0), False),
        ((0, 2), (0, 3), False),
    ],
)
def test_who_errs_where_honest_auditors_may_keeps_its_standing(
    majority: tuple[int, int], minority: tuple[int, int], blamed: bool
) -> None:
    held = evidence()
    order = [PEERS.index(peer) for peer in held.order(case())]
    (mistaken, *others) = order[:7]
    votes = (apart(mistaken, *minority), *(apart(index, *majority) for index in others))
    assert held.certify(with_votes(*votes)) is None
    assert held.verdict(case_of(held)).contradicted == (PEERS[mistaken],)
    assert held.judgement(Round(2)).contradicted == (((PEERS[mistaken], case().claim),) if blamed else ())


def case_of(held: Evidence) -> Case:
    (found,) = held.cases.values()
    return found


# -- probes -----------------------------------------------------------------------------------------------------------


def private_case() -> Case:
    """The update of PEERS[1], whose data are its own."""
    unsigned = Input(PEERS[1], digest_of(b"a"), 10, private_data(SIGNERS[1], RUN))
    signature = sign_claim(SIGNERS[1], RUN, claim_of(Round(1), PARENT, unsigned))
    made = msgspec.structs.replace(unsigned, signature=signature)
    first = aggregate(1, PARENT, (made, made_by(2, b"b")))
    second = signed(
        Aggregate(Round(2), digest_of(b"next"), first.model, (made_by(3, b"c"),), (PEERS[6],)), SIGNERS[6], RUN
    )
    return Case(first, link_of(second), made)


def probe(index: int, bits: int, *, agrees: bool | None = None) -> Vote:
    """So far apart; up to 180 of 256 bits is nothing against an update of other data."""
    own, claimed = bytes(Signature(bytes(32), 0)), bytes(Signature(((1 << bits) - 1).to_bytes(32, "little"), 0))
    said = bits <= OPPOSED if agrees is None else agrees
    unsigned = Vote(PEERS[index], private_case().claim, said, own, claimed, bytes(16), b"")
    return sign_vote(SIGNERS[index], RUN, unsigned)


def probed(*bits: int) -> Certificate:
    """By auditors in the order in which they are called."""
    order = [PEERS.index(peer) for peer in evidence().order(private_case())]
    votes = tuple(probe(index, each) for index, each in zip(order, bits, strict=False))
    return msgspec.structs.replace(private_case().certificate(), votes=votes)


def test_claims_that_this_run_does_not_audit_are_no_cases() -> None:
    held = Evidence(RUN, Audit(fraction=1.0, policy="recompute"), lambda: PEERS)
    assert held.certify(probed(200, 200, 200, 200)) == "claims of this kind are not audited in this run"
    assert held.cases == {}


def test_probes_suspend_for_a_while_and_expel_nobody() -> None:
    held = evidence()
    assert held.certify(probed(200, 200, 200, 200, 128)) is None
    assert held.verdict(case_of(held)).stage is Stage.SUSPENDED
    judgement = held.judgement(Round(5))
    assert (judgement.expelled, judgement.wrong, list(judgement.suspended)) == ({}, {}, [PEERS[1]])
    found = judgement.suspended[PEERS[1]]
    assert (found.until, "4 of 5 auditors suspect it, which is no proof" in found.why) == (1 + QUARANTINE_ROUNDS, True)
    assert held.judgement(Round(QUARANTINE_ROUNDS)).suspended
    assert not held.judgement(Round(1 + QUARANTINE_ROUNDS)).suspended


@pytest.mark.parametrize("bits", [(200, 128, 128), (128, 200), (200, 200, 128, 128, 128, 128)])
def test_whose_probe_is_outvoted_did_not_lie(bits: tuple[int, ...]) -> None:
    held = evidence()
    held.certify(probed(*bits))
    judgement = held.judgement(Round(5))
    assert (judgement.suspended, judgement.contradicted) == ({}, ())


def test_a_suspicion_that_its_figures_do_not_bear_out() -> None:
    doubt = evidence().vote(private_case(), probe(0, OPPOSED, agrees=False))
    assert doubt == "a vote that its own figures do not bear out"


def test_who_finds_nothing_against_an_odd_update_may_know_why() -> None:
    """Its own update of the run's first model, which it does not publish, is longer."""
    assert evidence().vote(private_case(), probe(0, 200, agrees=True)) is None


def test_a_probe_without_a_result_of_its_own() -> None:
    """Nobody can do the work of private data, so that it cannot be done is no vote."""
    cast = probe(0, 200)._replace(own=b"")
    cast = sign_vote(SIGNERS[0], RUN, cast)
    assert evidence().vote(private_case(), cast) == "a probe without a result of its own"


def test_a_file_of_probes_says_that_they_prove_nothing(tmp_path: Path) -> None:
    found, _, _ = check_certificate(read_certificate(written(tmp_path, probed(200, 200, 200, 200, 128))), RUN)
    assert found.holds, found.lines
    assert found.lines[-1] == (
        f"ok    verdict: {PEERS[1]} is suspended to round {QUARANTINE_ROUNDS}: 4 of 5 auditors suspect it, "
        "which is no proof"
    )
    said = "suspects it: 200 of 256 bits from an update of its own, norm +0 steps"
    assert sum(line.endswith(said) for line in found.lines) == 4
    assert any("private data" in line for line in found.lines)


# -- files ------------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, made: Certificate) -> Path:
    write_certificates(tmp_path, SIGNED, Docket(certificates=(made,), candidates=tuple(PEERS)))
    (path,) = tmp_path.iterdir()
    return path


def test_a_file_proves_its_verdict_offline(tmp_path: Path) -> None:
    found, _, _ = check_certificate(read_certificate(written(tmp_path, convicting())), RUN)
    assert found.holds, found.lines
    assert found.lines[-1] == f"ok    verdict: {PEERS[1]} is expelled"


def test_a_file_of_a_broken_commitment(tmp_path: Path) -> None:
    proof = broken(0, digest_of(b"another result"))
    write_certificates(tmp_path, SIGNED, Docket(proofs=(proof,)))
    (path,) = tmp_path.iterdir()
    found, _, _ = check_certificate(read_certificate(path), RUN)
    assert found.holds, found.lines
    assert found.lines[-1] == f"ok    verdict: {PEERS[0]} is expelled"
    kept = msgspec.structs.replace(proof, commitment=proof.vote.commitment)
    assert wrong(msgspec.structs.replace(read_certificate(path), proof=kept)) == [
        "WRONG they are not both signed by it, or the vote is what it had committed to"
    ]


def wrong(filed: Filed, run: bytes | None = None) -> list[str]:
    found, _, _ = check_certificate(filed, run)
    assert not found.holds
    return [line for line in found.lines if line.startswith("WRONG")]


def test_a_file_of_another_run(tmp_path: Path) -> None:
    filed = read_certificate(written(tmp_path, convicting()))
    assert wrong(filed, digest_of(b"other")) == ["WRONG of another run"]


def test_a_file_with_a_forged_vote(tmp_path: Path) -> None:
    votes = convicting().votes
    forged = msgspec.structs.replace(convicting(), votes=(votes[0]._replace(signature=bytes(64)), *votes[1:]))
    assert FORGED in wrong(read_certificate(written(tmp_path, forged)))[0]


def test_a_file_of_a_claim_that_was_doubted_and_cleared(tmp_path: Path) -> None:
    held = evidence()
    order = [PEERS.index(peer) for peer in held.order(case())]
    votes = (vote(order[0], agrees=False), *(vote(index, agrees=True) for index in order[1:3]))
    found, _, _ = check_certificate(read_certificate(written(tmp_path, with_votes(*votes))), None)
    assert found.holds
    assert found.lines[-1] == f"ok    verdict: {case().accused} is cleared"


def test_votes_that_decide_nothing_prove_nothing_and_are_not_filed(tmp_path: Path) -> None:
    filed = read_certificate(written(tmp_path, convicting()))
    open_still = with_votes(vote(0, agrees=False))
    assert wrong(msgspec.structs.replace(filed, certificate=open_still)) == ["WRONG these votes decide nothing"]
    folder = tmp_path / "another"
    write_certificates(folder, SIGNED, Docket(certificates=(open_still,), candidates=tuple(PEERS)))
    assert not folder.exists()


def test_bytes_of_who_is_out_already_are_needed_no_more() -> None:
    held = evidence()
    assert held.certify(with_votes(vote(0, agrees=False))) is None
    assert held.judgement(Round(2)).undecided == (case().model,)
    accused = PEERS.index(case().accused)
    proof = Twice(Round(1), PARENT, made_by(accused, b"a"), made_by(accused, b"other"))
    assert held.prove(proof) is None
    assert held.judgement(Round(2)).undecided == ()


@pytest.mark.parametrize("data", [b"", b"\x91" * 5000, b"not msgpack"])
def test_a_file_that_is_no_certificate(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.cert"
    path.write_bytes(data)
    with pytest.raises(OperatorError, match="no certificate of gossipnode"):
        read_certificate(path)
