"""What a checkpoint commits to, how a member votes for one, and how a joiner comes to believe one. Pure.

A `Checkpoint` names the block, the state it leaves, the members, the digest of A there, and the checkpoint before it.
Its id is what votes sign. A hostile proposer has no say in it: A's digest is in the votes, not in a block.

What a joiner is given (`Snapshot`): the state at the newest certified checkpoint C, and certificates from the founders
up to C, one wherever the members had changed. A certificate is one link of Casper's: a checkpoint, its neighbour that
commits to it, and the entries of more than two thirds of the electors with a vote from the one to the other. (Honest
members vote from justified checkpoints only, so that it certifies.) The electors of a certificate are the members at a
certificate shortly before it (the chain's own electors may lag behind), less those whose signed leave, or whose
equivocation, is in it, and those whose wrong bytes more than a third of that electorate has signed against. So a lying
snapshot needs two thirds of an electorate to have signed it, whoever serves it; A is checked against its digest in C,
the blocks since against C's state.
What signatures cannot settle is the long-range attack: two thirds of some *former* electorate, by then gone, whose
keys are stolen or sold and sign another history from there. Two snapshots that conflict are proof of that, or of a
third of the members being hostile: a joiner asks several peers and takes none if they conflict (`conflict`), and an
operator, or the author in an amendment, may name an `anchor`, a checkpoint that a snapshot must contain or lie on.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from protocols.chain import evidence, limits
from protocols.chain.finality import carried
from protocols.chain.messages import Entry, Evidence, Height, Leave, Vote, WrongBytes, genuine
from protocols.chain.rules import Rules
from protocols.chain.state import State
from protocols.fields import Bytes32, Peer
from protocols.limits import DETAIL_CHARS
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

_EXPELLED: Final = limits.HEIGHT + 1
_TRUSTED: Final = 3  # newest electorates a certificate may be signed by: the chain's own may lag behind by one

Members = tuple[tuple[Peer, Height], ...]  # in order, each with the height of its newest Join


class Checkpoint(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The block of `height`, a multiple of the epoch. `model`: digest of A there. `previous`: id of the one before."""

    height: Height
    block: Bytes32
    previous: Bytes32
    state: Bytes32
    members: Bytes32
    model: Bytes32


class Certificate(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`checkpoint` is certified: `votes` link it to its neighbour `child`. `members` are those at `checkpoint`."""

    checkpoint: Checkpoint
    child: Checkpoint
    votes: Annotated[tuple[Entry, ...], Meta(max_length=limits.MEMBERS)]
    members: Annotated[Members, Meta(max_length=limits.MEMBERS)]
    leaves: Annotated[tuple[Leave, ...], Meta(max_length=limits.MEMBERS)] = ()
    expulsions: Annotated[tuple[Evidence, ...], Meta(max_length=limits.MEMBERS)] = ()


class Snapshot(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Travels as a blob. Its A is the blob `checkpoint.model`."""

    certificates: Annotated[tuple[Certificate, ...], Meta(min_length=1, max_length=limits.CERTIFICATES)]
    state: State

    @property
    def checkpoint(self) -> Checkpoint:
        return self.certificates[-1].checkpoint


class Promises(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a member has signed and must never contradict: journalled before the signature is heard by anyone."""

    entry: Height = 0  # highest height I signed an entry for
    block: Height = 0
    vote: Vote | None = None  # highest vote


class BadSnapshot(Exception):
    """One line, fit for a log."""


def checkpoint_id(checkpoint: Checkpoint) -> Digest:
    return digest_of(b"gossipnode/checkpoint/1\0" + msgspec.msgpack.encode(checkpoint))


def checkpoint_of(state: State, previous: Digest, model: Digest) -> Checkpoint:
    newest = state.recent[-1]
    members = digest_of_members(members_of(state))
    return Checkpoint(newest.height, newest.digest, previous, digest_of_state(state), members, model)


def digest_of_state(state: State) -> Digest:
    return digest_of(msgspec.msgpack.encode(state, order="deterministic"))


def members_of(state: State) -> Members:
    return tuple(sorted((peer, member.since) for peer, member in state.members.items()))


def digest_of_members(members: Members) -> Digest:
    return digest_of(msgspec.msgpack.encode(members))


# -- voting -------------------------------------------------------------------------------------------------------


def vote_on(state: State, rules: Rules, known: dict[Digest, Checkpoint], me: PeerId, promises: Promises) -> Vote | None:
    """The vote that rides in my entry on this state: for the newest checkpoint that is `window` blocks deep, until it
    counts. So deep, because members who vote for a block that then loses have no second vote for that height."""
    finality = state.finality
    deep = [mark for mark in finality.marks if mark.height <= state.height - rules.window]
    target, source, before = deep[-1] if deep else finality.certified, finality.justified, promises.vote
    checkpoint = known.get(Digest(target.block))
    if target.height <= source.height or checkpoint is None:
        return None
    vote = Vote(source.height, target.height, checkpoint_id(checkpoint))
    if before is not None and before.height == vote.height and before.checkpoint == vote.checkpoint:
        vote = before  # its source may have been another
    if evidence.clash(before, vote) or (before is not None and vote.height < before.height):
        return None
    return None if any(ballot.vote == vote and me in ballot.voters for ballot in finality.ballots) else vote


# -- snapshots ----------------------------------------------------------------------------------------------------


def encode_snapshot(snapshot: Snapshot) -> bytes:
    return msgspec.msgpack.encode(snapshot, order="deterministic")


def open_snapshot(data: bytes, rules: Rules, run: bytes, anchor: tuple[int, Digest] | None = None) -> Snapshot:
    """`data` may be hostile. `anchor`: height and block of a checkpoint it must certify, if it names that height, and
    must not end below. Raises BadSnapshot and nothing else."""
    if len(data) > limits.SNAPSHOT_BYTES:
        raise BadSnapshot(f"{len(data)} bytes; at most {limits.SNAPSHOT_BYTES} are allowed")
    try:
        snapshot = msgspec.msgpack.decode(data, type=Snapshot)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own, and text that is not UTF-8
        raise BadSnapshot(f"not a snapshot: {error}"[:DETAIL_CHARS]) from error
    _follow(snapshot, rules, run)
    if digest_of_state(snapshot.state) != snapshot.checkpoint.state:
        raise BadSnapshot("its state is not the one that was certified")
    if anchor is not None and not anchored(snapshot, anchor):
        raise BadSnapshot(f"it does not lie on the checkpoint of height {anchor[0]} that it must contain")
    return snapshot


def anchored(snapshot: Snapshot, anchor: tuple[int, Digest]) -> bool:
    height, block = anchor
    named = {each.height: each.block for cert in snapshot.certificates for each in (cert.checkpoint, cert.child)}
    return named.get(height) == block if height in named else snapshot.checkpoint.height > height


def conflict(one: Snapshot, other: Snapshot) -> bool:
    """Whether they certify two blocks of one height: a third of an electorate signed both, or keys were stolen."""
    first, second = (
        {each.height: each.block for cert in snapshot.certificates for each in (cert.checkpoint, cert.child)}
        for snapshot in (one, other)
    )
    return any(first[height] != second[height] for height in first.keys() & second.keys())


def _follow(snapshot: Snapshot, rules: Rules, run: bytes) -> None:
    """From the founders, certificate by certificate."""
    trusted: list[Members] = [tuple((peer, 0) for peer in rules.founders)]
    height = 0
    departed: dict[PeerId, int] = {}
    accused: dict[PeerId, frozenset[PeerId]] = {}
    for certificate in snapshot.certificates:
        checkpoint, child = certificate.checkpoint, certificate.child
        if checkpoint.height <= height or child.height != checkpoint.height + rules.epoch:
            raise BadSnapshot("its certificates are out of order")
        if child.previous != checkpoint_id(checkpoint) or digest_of_members(certificate.members) != checkpoint.members:
            raise BadSnapshot(f"what is certified at height {checkpoint.height} does not fit together")
        departed |= _departures(certificate, run)
        accused |= _accused(certificate, run)
        voters = _voters(certificate, run)
        electorates = [_less(members, departed, accused) for members in trusted[-_TRUSTED:]]
        if not any(carried(voters, (electorate, electorate)) for electorate in electorates):
            raise BadSnapshot(f"less than two thirds have signed for the checkpoint of height {checkpoint.height}")
        trusted.append(certificate.members)
        height = checkpoint.height


def _less(
    electorate: Members, departed: dict[PeerId, int], accused: dict[PeerId, frozenset[PeerId]]
) -> frozenset[PeerId]:
    """Without those who have left since they joined (an older leave of somebody who came back is void), and those whom
    so many of it accuse that one of them is honest."""
    everyone = frozenset(peer for peer, _ in electorate)
    return frozenset(
        peer
        for peer, since in electorate
        if departed.get(peer, -1) < since
        and not evidence.enough(len(accused.get(peer, frozenset()) & everyone), len(everyone))
    )


def _departures(certificate: Certificate, run: bytes) -> dict[PeerId, int]:
    twice = [each for each in certificate.expulsions if not isinstance(each, WrongBytes)]
    if not all(genuine(leave, run) for leave in certificate.leaves) or not all(
        evidence.holds(each, run, ()) for each in twice
    ):
        raise BadSnapshot("a leave or an expulsion in it does not hold")
    gone = {leave.peer: leave.height for leave in certificate.leaves}
    return gone | {evidence.culprit(each): _EXPELLED for each in twice}


def _accused(certificate: Certificate, run: bytes) -> dict[PeerId, frozenset[PeerId]]:
    """Whose bytes are wrong, and who says so."""
    wrong = [each for each in certificate.expulsions if isinstance(each, WrongBytes)]
    if not all(evidence.contradicted(each, run) for each in wrong):
        raise BadSnapshot("a vote against wrong bytes in it does not hold")
    return {each.entry.origin: frozenset(vote.auditor for vote in each.votes) for each in wrong}


def _voters(certificate: Certificate, run: bytes) -> frozenset[PeerId]:
    vote = Vote(certificate.checkpoint.height, certificate.child.height, checkpoint_id(certificate.child))
    if not all(entry.vote == vote and genuine(entry, run) for entry in certificate.votes):
        raise BadSnapshot(f"a vote for the checkpoint of height {certificate.checkpoint.height} does not hold")
    return frozenset(entry.origin for entry in certificate.votes)
