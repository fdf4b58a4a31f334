"""What a chain's arithmetic is timed with: the kernels, what others do instead, and a step of a model of that size.

Every function returns seconds, the least of several turns: on a shared machine that is what the code costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossipnode.learn.flat import Flat
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.kernels.signs import Words, words
from gossipnode.learn.rules import Rules
from gossipnode.learn.spsa import Spsa
from gossipnode.learn.task import Batch, Data, Task

WIDTH: Final = 384  # of the transformer: 12 blocks as wide as those of a MiniLM, 22.7 million parameters with its words
WORDS: Final = 3584
TOKENS: Final = 32
EXAMPLES: Final = 64


def least(work: Callable[[], object], turns: int) -> float:
    """After one turn that nobody times: compilation, page faults."""
    work()
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def updates(count: int, seed: int = 0) -> tuple[Words, NDArray[np.int64]]:
    """Seeds, and bytes times a multiplier of 1."""
    chance = np.random.default_rng(seed)
    return chance.integers(0, 2**64, count, dtype=np.uint64), chance.integers(-127, 128, count)


def added(host: Host, length: int, batch: int, turns: int) -> float:
    """A batch, generated and applied."""
    a, (seeds, coefficients) = np.zeros(length, dtype=np.int32), updates(batch)
    return least(lambda: host.add(a, seeds, coefficients), turns)


def perturbed(host: Host, length: int, turns: int) -> float:
    """theta0 + quantum A + eps z."""
    theta0, a = np.zeros(length, dtype=np.float32), np.zeros(length, dtype=np.int32)
    out = np.empty_like(theta0)
    return least(lambda: host.perturb(out, theta0, a, quantum=2.0**-16, seed=1, eps=0.01), turns)


def replayed_with_randn(length: int, turns: int) -> float:
    """One update as programs of this kind do it: normal numbers from a seeded generator, added to float parameters."""
    theta, draw, noise = torch.zeros(length), torch.Generator(), torch.empty(length)

    def update() -> None:
        draw.manual_seed(1)
        theta.add_(noise.normal_(generator=draw), alpha=1e-3)

    return least(update, turns)


def added_naively(length: int, turns: int) -> float:
    """One update, in five lines of numpy: bits to signs, times the coefficient, added."""
    a = np.zeros(length, dtype=np.int32)

    def update() -> None:
        stream = words(1, 0, -(-length // 64))
        z = np.unpackbits(stream.view(np.uint8), bitorder="little")[:length].astype(np.int32)
        np.add(a, (z * 2 - 1) * np.int32(77), out=a)

    return least(update, turns)


class Encoder(nn.Module):
    """Words to two classes."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 12, 4 * width, batch_first=True)
        self.words = nn.Embedding(WORDS, width)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, texts: Tensor) -> Tensor:
        classes: Tensor = self.head(self.encoder(self.words(texts)).mean(1))
        return classes


class Transformer(Task):
    """Texts to be classified: with 12 layers 22.7 million parameters, nearly all of them in matrix products."""

    def __init__(self, layers: int = 12, width: int = WIDTH) -> None:
        self.layers, self.width = layers, width

    def model(self, seed: int) -> nn.Module:
        return Encoder(self.layers, self.width)

    def data(self, shard: object, path: object) -> Data:
        draw = torch.Generator().manual_seed(0)
        texts = torch.randint(WORDS, (EXAMPLES, TOKENS), generator=draw)
        batch = (texts, torch.arange(EXAMPLES) % 2)
        return Data(batch, torch.arange(EXAMPLES), batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def step(task: Task, threads: int, turns: int) -> tuple[int, float, float]:
    """Parameters; seconds of a step (one probe, and its byte added); and of its two forward passes alone.

    The two take turns, so that whatever else the machine does falls on both.
    """
    torch.manual_seed(0)
    flat = Flat(task, 0, torch.device("cpu"))
    data = task.data(None, None)  # type: ignore[arg-type]  # it has one shard
    spsa = Spsa(flat, task, data, flat.read().copy(), Rules(probes=1, batch=EXAMPLES), threads=threads)
    seeds, coefficients = updates(1)
    flat.model.eval()

    @torch.no_grad()
    def forward_twice() -> None:
        for _ in range(2):
            task.loss(flat.model, data.pool).item()

    def whole() -> None:
        spsa.probe(seeds.tolist(), 0)
        spsa.add(seeds, coefficients)

    pairs = [(least(whole, 1), least(forward_twice, 1)) for _ in range(turns)]
    return len(flat.learned), min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
