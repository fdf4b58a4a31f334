"""What the daemon and its worker say to each other: msgpack frames over two pipes, never pickle.

A frame is four bytes of length (little-endian) and a Call or a Reply. Models do not travel in frames: both sides open
the same store, and a frame names a blob by its digest. Imports neither torch nor numpy.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from gossipnode.errors import OperatorError
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.names import TaskError
from protocols.blobs import StoreFull
from protocols.learner import LearnerError, Unfit

PREFIX_BYTES = 4
FAILURES: Final[dict[str, type[Exception]]] = {
    failure.__name__: failure for failure in (Unfit, LearnerError, TaskError, OperatorError, StoreFull)
}


class Part(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Of a frame."""


class Start(Part, frozen=True):
    """The first call, and only once: load task and data. Answered by Ready."""

    config: LearnerConfig


class Initial(Part, frozen=True):
    """Answered by Done, theta0 stored."""


class Train(Part, frozen=True):
    """Answered by Improved, the model stored."""

    parent: bytes
    seed: int


class Evaluate(Part, frozen=True):
    """Answered by Scored."""

    model: bytes


class Export(Part, frozen=True):
    """Write a model to `path` as float32 safetensors. Answered by Done."""

    model: bytes
    path: str


class Merge(Part, frozen=True):
    """Answered by Done, the mean stored."""

    models: list[bytes]
    weights: list[int]


class Check(Part, frozen=True):
    """Answered by Checked."""

    model: bytes


class Interrupt(Part, frozen=True):
    """Stop the call of this number between two batches. Not answered itself; the call is, by Failed."""


class Ready(Part, frozen=True):
    parameters: int
    model_bytes: int
    samples: int  # training examples of this node
    source: str  # task_source


class Done(Part, frozen=True):
    pass


class Checked(Part, frozen=True):
    largest: float  # absolute value


class Improved(Part, frozen=True):
    samples: int
    steps: int
    loss: float
    seconds: float


class Scored(Part, frozen=True):
    metrics: dict[str, float]
    samples: int


class Failed(Part, frozen=True):
    """`kind` is a name in FAILURES; `line` is the text of that exception."""

    kind: str
    line: str


ModelAsk: TypeAlias = Start | Initial | Train | Evaluate | Export  # these use the torch model, one at a time
BlobAsk: TypeAlias = Merge | Check  # these need no model, and are answered while one trains
Ask: TypeAlias = ModelAsk | BlobAsk
Answer: TypeAlias = Ready | Done | Checked | Improved | Scored | Failed


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
