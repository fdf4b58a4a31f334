"""The wire vocabulary: every message a peer can say, as a frozen typed struct. One docstring each: who says it, when.

Structs travel as msgpack arrays headed by their integer tag (`protocols.wire`); field order and tags are the format, so
they are only ever appended to. Model bytes do not ride in a message, but for small ones in `protocols.gossip`: a digest
names them, `protocols.exchange` fetches them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocols import limits
from protocols.fields import Bucket, Bytes32, Data, Message, Peer, Peers, RoundNumber, Run, Signature, Version
from protocols.gossip.messages import AskNewest, AskWork, Doubted, NewestIs, NewModel, WorkIs
from protocols.onebyte.messages import (
    AskChain,
    AskSnapshot,
    AskVotes,
    ChainIs,
    NewBlock,
    NewChange,
    NewEntry,
    SnapshotIs,
    VotesAre,
)
from sampling.view import Delta, Registration
from verify.claims import Vote
from verify.digest import DIGEST_BYTES

WIRE_VERSION = 2


# -- membership: anyone to anyone -------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=1):
    """First word on a new link, both ways: my run, how far I am, whom I know. Answered by Welcome or Refused."""

    run: Run  # 32 bytes, or empty from a newcomer that has no manifest yet
    round: RoundNumber
    seal: Version = 0  # of the registrations in my view: who has the same needs none of them
    version: Version = 0  # of my view


class Welcome(Message, frozen=True, tag=2):
    """Answer to Hello: same run."""

    run: Run
    round: RoundNumber
    seal: Version = 0
    version: Version = 0


class Refused(Message, frozen=True, tag=3):
    """Answer to anything that is not granted; the reason is one line for the other side's log."""

    reason: Annotated[str, Meta(max_length=limits.DETAIL_CHARS)]


class AskManifest(Message, frozen=True, tag=4):
    """A newcomer to the peer it was pointed at. Answered by ManifestIs."""


class ManifestIs(Message, frozen=True, tag=5):
    """The signed manifest with its amendments, as `protocols.manifest` encodes it."""

    signed: Annotated[bytes, Meta(max_length=limits.MANIFEST_BYTES)]


class Exchange(Message, frozen=True, tag=6):
    """Peer exchange, to a random linked peer every few seconds and after a join or leave: what is new in my view since
    you last answered me, up to which version I hold yours, and which of mine you then hold. Answered by Exchanged."""

    round: RoundNumber
    delta: Delta
    have: Version
    upto: Version = 0  # unknown


class Exchanged(Message, frozen=True, tag=7):
    """Answer to Exchange: what is new in mine since `have`, and the version it brings you to."""

    round: RoundNumber
    delta: Delta
    upto: Version


class Compare(Message, frozen=True, tag=11):
    """On a new link, when the seals of two views differ: the seals of so many parts of mine. Answered by Compared."""

    round: RoundNumber
    seals: Annotated[tuple[Version, ...], Meta(max_length=limits.BUCKETS)]


class Compared(Message, frozen=True, tag=12):
    """Answer to Compare: the parts in which we differ, what is in mine, and my view's version, of which you then hold
    all but recent activity. No part is named if what is in them does not fit: exchange the views from the start."""

    round: RoundNumber
    differing: Annotated[tuple[Bucket, ...], Meta(max_length=limits.BUCKETS)]
    delta: Delta
    upto: Version


class Ping(Message, frozen=True, tag=8):
    """A sampler to a candidate: are you there? Answered by Pong."""

    round: RoundNumber


class Pong(Message, frozen=True, tag=9):
    """Answer to Ping."""

    round: RoundNumber


class Registered(Message, frozen=True, tag=10):
    """Gossip: a peer joined or left. Signed by that peer inside."""

    registration: Registration


# -- MoDeST rounds ----------------------------------------------------------------------------------------------------


class Input(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One trainer's claim among those that make an aggregate; with the aggregate's round and parent it is whole."""

    trainer: Peer
    model: Bytes32
    samples: Annotated[int, Meta(ge=1, le=limits.SAMPLES)]
    data: Data = b""
    signature: Signature = b""


Inputs = Annotated[tuple[Input, ...], Meta(max_length=limits.COMMITTEE)]


class Aggregate(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, eq=False):
    """theta_k by name: the mean of `inputs`, each trained from `parent`. Round 0 is theta0, with neither.

    Two are equal if they tell the same story, whichever of the aggregators has signed it.
    """

    round: RoundNumber
    model: Bytes32
    parent: Annotated[bytes, Meta(max_length=DIGEST_BYTES)]  # empty for theta0
    inputs: Inputs
    aggregators: Peers  # the one that signed comes first
    signature: Signature = b""

    @property
    def _story(self) -> tuple[object, ...]:
        return self.round, self.model, self.parent, self.inputs, frozenset(self.aggregators)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Aggregate) and self._story == other._story

    def __hash__(self) -> int:
        return hash((self.model, self.round))


class TrainedModel(Message, frozen=True, tag=20):
    """A trainer of round k to each aggregator: my update of `parent`, for you to fetch. Answered by Ack or Late."""

    round: RoundNumber
    parent: Bytes32
    model: Bytes32
    samples: Annotated[int, Meta(ge=1, le=limits.SAMPLES)]
    delta: Delta
    data: Data = b""
    signature: Signature = b""  # of the claim that all this makes


class Ack(Message, frozen=True, tag=21):
    """Heard and believed as far as it goes."""


class Late(Message, frozen=True, tag=22):
    """That round is over: here is the newest aggregate."""

    head: Aggregate


class Proposal(Message, frozen=True, tag=23):
    """With several aggregators, the first in rank to the others: let us merge exactly these. Answered by Computed."""

    round: RoundNumber
    parent: Bytes32
    inputs: Inputs
    committee: Peers  # the aggregators, whoever proposes first
    signature: Signature = b""  # of the aggregate as the proposer computed it


class Computed(Message, frozen=True, tag=24):
    """Answer to Proposal: the digest of the mean as I computed it."""

    model: Bytes32


class Aggregated(Message, frozen=True, tag=25):
    """An aggregator to each trainer of the next round: train from this. Answered by Ack or Late.

    `attempt` > 0 asks again for a round that starved; a trainer then answers from its own last update if it has one.
    """

    aggregate: Aggregate
    attempt: Annotated[int, Meta(ge=0, le=limits.ATTEMPTS)]
    delta: Delta


class Settled(Message, frozen=True, tag=26):
    """An aggregator to each trainer whose model went into the aggregate (the paper's AGG_ACK). Answered by Ack."""

    aggregate: Aggregate


class AskHead(Message, frozen=True, tag=27):
    """Anyone: what is the newest aggregate you know of? Answered by HeadIs."""


class HeadIs(Message, frozen=True, tag=28):
    """Answer to AskHead, and gossip by an aggregator when a round is done."""

    head: Aggregate


class Unable(Message, frozen=True, tag=29):
    """A trainer to each aggregator: my task fails, ask another in my place. Answered by Ack or Late."""

    round: RoundNumber


# -- audits -----------------------------------------------------------------------------------------------------------


class Link(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An aggregate by what its aggregator signed of it: the beacon of the round before."""

    round: RoundNumber
    model: Bytes32
    parent: Bytes32
    inputs: Bytes32
    aggregator: Peer
    signature: Signature


class Certificate(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A claim of `aggregate` and the votes on it: all that is needed to judge it. `trained`: the claim of an input's
    trainer; else that of the aggregate's own signer."""

    aggregate: Aggregate
    accused: Peer
    trained: bool
    beacon: Link
    votes: Annotated[tuple[Vote, ...], Meta(max_length=limits.VOTES)]


class Twice(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="twice"):
    """Two claims of one trainer on one piece of work, both signed: proof without an audit."""

    round: RoundNumber
    parent: Bytes32
    first: Input
    second: Input


class Broken(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="broken"):
    """An auditor's commitment and its vote on another result than that, both signed: it voted before it had one."""

    round: RoundNumber  # of the claim
    commitment: Bytes32
    signature: Signature  # of the commitment
    vote: Vote


Proof = Twice | Broken  # of its maker's lie, by its own signatures: nobody need vote


class Committed(Message, frozen=True, tag=30):
    """An auditor of a claim to whoever holds its bytes: I have a result of my own, and this commits me to it. Answered
    by Ack: they may be fetched now. UNBOUND where the work needs the claimed bytes to begin with."""

    round: RoundNumber  # of the claim
    claim: Bytes32
    commitment: Bytes32
    signature: Signature  # of `verify.claims.bound`


class Voted(Message, frozen=True, tag=31):
    """Gossip by an auditor: what it found of a claim of that round."""

    round: RoundNumber
    vote: Vote


class AskEvidence(Message, frozen=True, tag=32):
    """To a new link and to a random one now and then: the evidence I have, by digest. Answered by EvidenceIs."""

    have: Annotated[tuple[Bytes32, ...], Meta(max_length=limits.EVIDENCE)]


class EvidenceIs(Message, frozen=True, tag=33):
    """Answer to AskEvidence: what you lack, as much as fits. And gossip by whoever finds proof of a lie."""

    certificates: Annotated[tuple[Certificate, ...], Meta(max_length=limits.EVIDENCE)]
    proofs: Annotated[tuple[Proof, ...], Meta(max_length=limits.EVIDENCE)] = ()


# -- questions to the model -------------------------------------------------------------------------------------------


class Held(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A model that the answerer can answer from."""

    round: RoundNumber
    model: Bytes32


class AskAnswer(Message, frozen=True, tag=60):
    """Anyone to a node that answers: what does the newest model that you hold make of this input, or one that you have
    named? Answered by AnswerIs or Refused."""

    question: Annotated[bytes, Meta(min_length=1, max_length=limits.QUESTION_BYTES)]  # a file, as the task reads it
    model: Annotated[bytes, Meta(max_length=DIGEST_BYTES)] = b""


class AnswerIs(Message, frozen=True, tag=61):
    """Answer to AskAnswer: little-endian float32 scores, a row an example, and from which model; and which others are
    held, in case those of the other answerers are."""

    source: Held
    output: Annotated[bytes, Meta(max_length=limits.OUTPUT_BYTES)]
    others: Annotated[tuple[Held, ...], Meta(max_length=limits.MODELS_OFFERED)]
    signature: Signature  # of `verify.claims.Answered`


AnyMessage = (
    Hello
    | Welcome
    | Refused
    | AskManifest
    | ManifestIs
    | Exchange
    | Exchanged
    | Compare
    | Compared
    | Ping
    | Pong
    | Registered
    | TrainedModel
    | Ack
    | Late
    | Proposal
    | Computed
    | Aggregated
    | Settled
    | AskHead
    | HeadIs
    | Unable
    | Committed
    | Voted
    | AskEvidence
    | EvidenceIs
    | NewEntry
    | NewBlock
    | NewChange
    | AskChain
    | ChainIs
    | AskSnapshot
    | SnapshotIs
    | AskVotes
    | VotesAre
    | NewModel
    | AskNewest
    | NewestIs
    | AskWork
    | WorkIs
    | Doubted
    | AskAnswer
    | AnswerIs
)

GOSSIP = (
    Registered,
    HeadIs,
    Voted,
    EvidenceIs,
    NewEntry,
    NewBlock,
    NewChange,
    NewModel,
    Doubted,
)  # what may be published; everything else is asked or answered
