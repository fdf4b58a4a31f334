"""Models that come in pieces (DivShare, arXiv 2410.12918): each piece is merged with what came of it, and nothing else.

Within a piece the manifest's rule sees a part of a tensor as it would see a whole, shorter one. Invariant: a coordinate
of which nothing came keeps its bits, and whatever bytes a peer sent are finite values of this run, or raise Unfit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from gossipnode.learn.encoding import Buffer, Template, Vector, decode, encode, finite
from gossipnode.learn.merge import Shape, merged
from gossipnode.learn.models import Models
from protocols.learner import Unfit
from protocols.merging import Merging
from protocols.pieces import Span, spans
from verify.digest import Digest, digest_of

# What came of one piece: blobs of that piece or of whole models, and the weights of our own and of theirs.
Came: TypeAlias = tuple[Sequence[Buffer], Sequence[int]]


@dataclass(frozen=True)
class Piece:
    """Some bytes of every blob of a run, which are the values low .. high - 1 and, in the first, the header."""

    span: Span
    low: int
    high: int


class Cutting:
    """How the models of a run are cut. An encoding without scales: those stand in front of all values."""

    def __init__(self, template: Template, fragments: int) -> None:
        self._template = template
        at = template.value_at
        self.pieces: Final = [Piece(it, at(it.start), at(it.end)) for it in spans(template.size, fragments)]

    def cut(self, blob: Buffer) -> list[tuple[Digest, float]]:
        """Of each piece the digest, and the largest absolute value. Raises Unfit."""
        vector, view = decode(blob, self._template), memoryview(blob)
        return [
            (digest_of(view[each.span.start : each.span.end]), largest(vector[each.low : each.high]))
            for each in self.pieces
        ]

    def read(self, blob: Buffer, index: int) -> Vector:
        """The values of a piece, read-only. Whatever the bytes, it raises Unfit and nothing else."""
        piece, view = self.pieces[index], memoryview(blob)
        if len(view) != piece.span.size:
            raise Unfit(f"{len(view)} bytes where this piece of every model of this run has {piece.span.size}")
        header = self._template.header[piece.span.start : piece.span.end]
        if view[: len(header)] != header:
            raise Unfit("names, shapes or types of its tensors are not those of this run")
        return finite(view[len(header) :], self._template)

    def check(self, blob: Buffer, index: int) -> float:
        """The largest absolute value. Raises Unfit."""
        return largest(self.read(blob, index))

    def merged(self, own: Buffer, came: Sequence[Came], merging: Merging, shape: Shape, threads: int = 1) -> bytes:
        """`came`: of each piece; of some there may be nothing. `own` is the parent, too. Raises Unfit."""
        before = decode(own, self._template)
        after = before.copy()
        for index, (piece, (others, weights)) in enumerate(zip(self.pieces, came, strict=True)):
            if others and piece.low < piece.high:
                mine = before[piece.low : piece.high]
                models = Models.of([mine, *(self._values(blob, index) for blob in others)], threads)
                part = shape.part(piece.low, piece.high)
                after[piece.low : piece.high] = merged(models, weights, merging, part, mine)
        return encode(after, self._template)

    def _values(self, blob: Buffer, index: int) -> Vector:
        if len(blob) != self._template.size:
            return self.read(blob, index)
        piece = self.pieces[index]
        return decode(blob, self._template)[piece.low : piece.high]


def largest(vector: Vector) -> float:
    """Absolute value."""
    return max(float(vector.max(initial=0.0)), -float(vector.min(initial=0.0)))
