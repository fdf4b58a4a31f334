"""MiniLM against a plain rendering of BERT's formulas, on a tiny random one: one sentence at a time, no padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossipnode.learn.tasks.minilm import (
    EMBEDDING_PARTS,
    LAYER_PARTS,
    MiniLM,
    Sizes,
    layer_state,
    minilm_state,
    pooled,
    real_tokens,
)

TINY = Sizes(vocabulary=50, positions=12, width=8, wide=16, heads=2, layers=2)
Array = NDArray[np.float64]


def shapes(name: str) -> tuple[int, ...]:
    """Of a weight, by BERT's name."""
    if "word" in name:
        return (TINY.vocabulary, TINY.width)
    if "position" in name:
        return (TINY.positions, TINY.width)
    if "token_type" in name:
        return (2, TINY.width)
    if "intermediate" in name:
        return (TINY.wide, TINY.width)
    return (TINY.width, TINY.wide) if "output.dense" in name and "attention" not in name else (TINY.width, TINY.width)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A file of weights, by BERT's names."""
    draw = torch.Generator().manual_seed(1)
    layers = [f"encoder.layer.{index}.{part}" for index in range(TINY.layers) for part in LAYER_PARTS.values()]
    found: dict[str, Tensor] = {}
    for name in [*EMBEDDING_PARTS.values(), *layers]:
        norm = "LayerNorm" in name
        found[f"{name}.weight"] = torch.randn(TINY.width if norm else shapes(name), generator=draw)  # type: ignore[call-overload]  # a number or a tuple
        if norm or name in layers:
            found[f"{name}.bias"] = torch.randn(shapes(name)[0], generator=draw) * 0.1
    return found


@pytest.fixture(scope="module")
def model(weights: dict[str, Tensor]) -> MiniLM:
    model = MiniLM(TINY)
    model.load_state_dict(minilm_state(weights, TINY.layers))
    return model.eval()


def normed(x: Array, weights: dict[str, Array], name: str) -> Array:
    middle, spread = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - middle) / np.sqrt(spread + 1e-12) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def plain(tokens: list[int], tensors: dict[str, Tensor]) -> Array:
    """BERT as the paper has it, without its pooler: (T,) to (T, H)."""
    weights = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    x = normed(x + weights["embeddings.token_type_embeddings.weight"][0], weights, "embeddings.LayerNorm")
    size = TINY.width // TINY.heads
    for layer in (f"encoder.layer.{index}." for index in range(TINY.layers)):
        query, key, value = (linear(x, weights, f"{layer}attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for part in (slice(at, at + size) for at in range(0, TINY.width, size)):
            scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(size))
            heads.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
        mixed = linear(np.concatenate(heads, 1), weights, f"{layer}attention.output.dense")
        x = normed(x + mixed, weights, f"{layer}attention.output.LayerNorm")
        wide = linear(x, weights, f"{layer}intermediate.dense")
        wide = wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        x = normed(x + linear(wide, weights, f"{layer}output.dense"), weights, f"{layer}output.LayerNorm")
    return x


SENTENCES = [[3, 7, 49, 1], [5], [9, 9, 2, 30, 31, 32, 8]]


def padded(padding: int, longest: int) -> tuple[Tensor, Tensor]:
    rows = [sentence + [padding] * (longest - len(sentence)) for sentence in SENTENCES]
    return torch.tensor(rows), torch.tensor([len(sentence) for sentence in SENTENCES])


@torch.no_grad()
def test_a_batch_gives_what_the_formulas_give(model: MiniLM, weights: dict[str, Tensor]) -> None:
    found = model(*padded(0, 7))
    assert found.shape == (3, TINY.width)
    for row, sentence in enumerate(SENTENCES):
        mean = plain(sentence, weights).mean(0)
        np.testing.assert_allclose(found[row].numpy(), mean / np.linalg.norm(mean), atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(model: MiniLM) -> None:
    torch.testing.assert_close(model(*padded(0, 7)), model(*padded(44, 12)))


@torch.no_grad()
def test_the_last_layer_takes_up_where_the_others_end(model: MiniLM) -> None:
    tokens, lengths = padded(0, 7)
    real = real_tokens(lengths, 7)
    hidden = model.hidden(tokens, lengths)
    assert hidden.shape == (3, 7, TINY.width)
    torch.testing.assert_close(pooled(model.layers[-1](hidden, real), real), model(tokens, lengths))


def test_real_tokens_are_the_first_ones() -> None:
    assert real_tokens(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]


def test_pooling_is_the_mean_of_real_tokens_at_length_one() -> None:
    x = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [100.0, 100.0]]])
    torch.testing.assert_close(pooled(x, real_tokens(torch.tensor([2]), 3)), torch.tensor([[0.6, 0.8]]))


def test_weights_that_lack_a_name_are_refused(weights: dict[str, Tensor]) -> None:
    with pytest.raises(KeyError, match=r"encoder.layer.2.attention"):
        layer_state(weights, 2)


def test_the_real_one_has_its_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in MiniLM().parameters()) == 22_565_376  # without the pooler, which is not used
