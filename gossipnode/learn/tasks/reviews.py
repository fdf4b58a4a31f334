"""Rated sentences: those of the movie reviews that ship in vaderSentiment's source distribution, or a node's own.

Twenty people rated each sentence from -4 to 4 (Hutto and Gilbert, ICWSM 2014; the sentences are Pang and Lee's, from
Rotten Tomatoes). A mean of 0.5 or more is positive, of -0.5 or less negative; the 533 between them are left out, which
leaves 10,072. Which sentences are for testing is a pure function of the sentence itself: the BLAKE2b-64 of its UTF-8,
read as a little-endian number, is a multiple of five. So all nodes agree, whatever each of them holds, and what is a
test sentence to one is never trained on by another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gossipnode.errors import reason
from gossipnode.learn.names import TaskError
from gossipnode.learn.tasks.pinned import Archive, Pinned

CERTAIN = 0.5  # of a mean rating: nearer to zero, the raters did not agree on a side
HELD_OUT = 5  # one sentence in about five is for testing
LABELS = {"0": 0, "1": 1}

VADER = Archive(
    "vaderSentiment==3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", source=True
)
RATED = Pinned(
    "movieReviewSnippets_GroundTruth.txt",
    "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    VADER,
    (
        "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    ),
)


@dataclass(frozen=True)
class Sentences:
    texts: tuple[str, ...]
    labels: tuple[int, ...]  # 1: positive

    def digest(self) -> bytes:
        """Of the texts, in their order."""
        return hashlib.blake2b("\n".join(self.texts).encode(), digest_size=32).digest()

    def chosen(self, test: bool) -> Sentences:
        pairs = [pair for pair in zip(self.texts, self.labels, strict=True) if for_testing(pair[0]) == test]
        return of_pairs(pairs)


def of_pairs(pairs: Iterable[tuple[str, int]]) -> Sentences:
    texts, labels = [*zip(*pairs, strict=True)] or [(), ()]
    return Sentences(tuple(map(str, texts)), tuple(map(int, labels)))


def for_testing(text: str) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % HELD_OUT == 0


def shipped(task: str) -> Sentences:
    """Raises TaskError."""
    return of_pairs(_certain(RATED.read(task).decode()))


def own(path: Path) -> Sentences:
    """A UTF-8 file of `1` (positive) or `0` (negative), a tab, and a sentence, one a line. Raises TaskError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TaskError(f"data {path}: cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"data {path}: not text in UTF-8 (byte {error.start})") from error
    sentences = of_pairs(_labelled(path, lines))
    held_out = sum(map(for_testing, sentences.texts))
    if not 0 < held_out < len(sentences.texts):
        raise TaskError(f"data {path}: too few sentences to hold a fifth out for testing")
    return sentences


def _certain(text: str) -> Iterator[tuple[str, int]]:
    """The shipped file: a number, a tab, the mean rating, a tab, the sentence."""
    for line in text.splitlines():
        _, rating, sentence = line.split("\t")
        if abs(float(rating)) >= CERTAIN:
            yield sentence.strip(), int(float(rating) > 0)


def _labelled(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(lines, 1):
        label, tab, sentence = line.partition("\t")
        if not line.strip():
            continue
        if not tab or label.strip() not in LABELS or not sentence.strip():
            raise TaskError(f"data {path}, line {number}: expected 0 or 1, a tab and a sentence")
        yield sentence.strip(), LABELS[label.strip()]
