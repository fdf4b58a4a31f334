"""What the daemon and its worker say to each other: msgpack frames over two pipes, never pickle.

A frame is four bytes of length (little-endian) and a Call or a Reply. Models do not travel in frames: both sides open
the same store, and a frame names a blob by its digest. Seeds and coefficients of one-byte training travel as
little-endian arrays of 64 bits, UPDATES in a frame at most. Imports neither torch nor numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from gossipnode.errors import OperatorError
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.names import TaskError
from protocols.blobs import StoreFull
from protocols.learner import LearnerError, Unanswerable, Unfit

PREFIX_BYTES = 4
UPDATES: Final = 4096  # 64 KiB: what a pipe holds
FAILURES: Final[dict[str, type[Exception]]] = {
    failure.__name__: failure for failure in (Unfit, Unanswerable, LearnerError, TaskError, OperatorError, StoreFull)
}


class Part(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Of a frame."""


class Start(Part, frozen=True):
    """The first call, and only once: load task and data. Answered by Ready."""

    config: LearnerConfig


class Initial(Part, frozen=True):
    """Answered by Done, theta0 stored, or what another seed makes of it."""

    seed: int | None = None


class Train(Part, frozen=True):
    """Answered by Improved, the model stored."""

    parent: bytes
    seed: int


class Replay(Part, frozen=True):
    """Train as another node, on its shard. Answered by Improved, the model stored."""

    parent: bytes
    seed: int
    shard: str
    samples: int  # that it must have


class Evaluate(Part, frozen=True):
    """Answered by Scored."""

    model: bytes


class Infer(Part, frozen=True):
    """Answered by Inferred."""

    model: bytes
    question: bytes


class Export(Part, frozen=True):
    """Write a model to `path` as float32 safetensors. Answered by Done."""

    model: bytes
    path: str


class Integrate(Part, frozen=True):
    """A merge that tries the models on our own examples, ours first. Answered by Done, what they make stored."""

    models: list[bytes]


class Merge(Part, frozen=True):
    """Answered by Done, what they make stored."""

    models: list[bytes]
    weights: list[int]
    parent: bytes = b""  # if the rule needs it


class Check(Part, frozen=True):
    """Answered by Checked."""

    model: bytes


class Sketch(Part, frozen=True):
    """The signature of model - parent. Answered by Sketched."""

    model: bytes
    parent: bytes  # b"": none
    seed: bytes


class Probe(Part, frozen=True):
    """Answered by Probed."""

    seeds: bytes  # uint64
    seed: int  # of the batches


class Reprobe(Part, frozen=True):
    """Probe as another node, on its shard. Answered by Probed."""

    seeds: bytes  # uint64
    seed: int
    shard: str


class Add(Part, frozen=True):
    """Answered by Done. Nothing is added before the last of a series, and then all of it."""

    seeds: bytes  # uint64
    coefficients: bytes  # int64
    more: bool  # to come


class Sum(Part, frozen=True):
    """The digest of A. Answered by Summed; if `store`, A is stored."""

    store: bool


class Restore(Part, frozen=True):
    """Answered by Done."""

    a: bytes  # b"": zeros


class Score(Part, frozen=True):
    """Evaluate at A. Answered by Scored."""


class ExportSum(Part, frozen=True):
    """Write theta0 + quantum A, with A from a blob, to `path` as float32 safetensors. Answered by Done."""

    a: bytes
    path: str


class Interrupt(Part, frozen=True):
    """Stop the call of this number between two batches. Not answered itself; the call is, by Failed."""


class Ready(Part, frozen=True):
    parameters: int
    model_bytes: int
    samples: int  # training examples of this node
    source: str  # task_source
    spent: float | None  # epsilon, as in Probed
    sum_bytes: int  # of A


class Done(Part, frozen=True):
    pass


class Checked(Part, frozen=True):
    largest: float  # absolute value


class Sketched(Part, frozen=True):
    signature: bytes  # `verify.lsh.Signature` as bytes


class Inferred(Part, frozen=True):
    output: bytes  # as `Learner.answer` has it


class Improved(Part, frozen=True):
    samples: int
    steps: int
    loss: float
    seconds: float


class Probed(Part, frozen=True):
    scalars: bytes
    loss: float
    saturated: int
    seconds: float
    spent: float | None  # epsilon of all private probes so far; None without the privacy option


class Summed(Part, frozen=True):
    digest: bytes


class Scored(Part, frozen=True):
    metrics: dict[str, float]
    samples: int
    model: bytes  # its digest; of A, if the call was Score


class Failed(Part, frozen=True):
    """`kind` is a name in FAILURES; `line` is the text of that exception."""

    kind: str
    line: str


StepAsk: TypeAlias = Probe | Reprobe | Add | Sum | Restore | Score | ExportSum
# These use the torch model, one at a time.
ModelAsk: TypeAlias = Start | Initial | Train | Replay | Integrate | Evaluate | Infer | Export | StepAsk
BlobAsk: TypeAlias = Merge | Check | Sketch  # these need no model, and are answered while one trains
Ask: TypeAlias = ModelAsk | BlobAsk
Answer: TypeAlias = Ready | Done | Checked | Sketched | Inferred | Improved | Probed | Summed | Scored | Failed


class Call(msgspec.Struct, frozen=True, array_like=True):
    number: int
    ask: Ask | Interrupt


class Reply(msgspec.Struct, frozen=True, array_like=True):
    number: int  # of the call
    answer: Answer
    stored: bytes = b""  # digest of the blob that the worker has written, if it has


def framed(message: Call | Reply) -> bytes:
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(PREFIX_BYTES, "little") + body


def packed(kind: str, values: Sequence[int]) -> bytes:
    """`kind` is Q for seeds, q for coefficients."""
    return struct.pack(f"<{len(values)}{kind}", *values)


def adds(updates: Sequence[tuple[int, int]]) -> Iterator[Add]:
    """The series of calls for them, none if there are none."""
    for at in range(0, len(updates), UPDATES):
        seeds, coefficients = zip(*updates[at : at + UPDATES], strict=True)
        yield Add(packed("Q", seeds), packed("q", coefficients), more=at + UPDATES < len(updates))
