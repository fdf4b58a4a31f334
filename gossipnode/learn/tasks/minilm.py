"""MiniLM: the small BERT encoder behind all-MiniLM-L6-v2 (Wang et al., arXiv 2002.10957; Reimers, arXiv 1908.10084).

Inference without dropout, in float32, on padded batches. `lengths` says how many tokens of each sentence are real:
padding is never attended to and never pooled, so that a sentence's vector does not depend on its neighbours.
The weights come from a safetensors file with the names of the original BERT; every name must be there, and fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-12  # of the original; torch's default is 1e-5

# Our names for the parts of a layer, and BERT's.
LAYER_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mix": "attention.output.dense",
    "mix_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "narrow_norm": "output.LayerNorm",
}
EMBEDDING_PARTS = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "segment": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The defaults are those of all-MiniLM-L6-v2: 22.6 million parameters."""

    vocabulary: int = 30_522
    positions: int = 512
    width: int = 384  # H
    wide: int = 1536
    heads: int = 12
    layers: int = 6


class Layer(nn.Module):
    """Self-attention, then a perceptron, each added to its input and normalised after."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        self.query: nn.Module = nn.Linear(width, width)  # which may be replaced by an adapted one, as may `value`
        self.key = nn.Linear(width, width)
        self.value: nn.Module = nn.Linear(width, width)
        self.mix, self.mix_norm = nn.Linear(width, width), nn.LayerNorm(width, LAYER_NORM_EPS)
        self.widen, self.narrow = nn.Linear(width, sizes.wide), nn.Linear(sizes.wide, width)
        self.narrow_norm = nn.LayerNorm(width, LAYER_NORM_EPS)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x: (B, T, H); real: (B, T), true where a token is no padding."""
        x = self.mix_norm(x + self.mix(self._attended(x, real)))
        out: Tensor = self.narrow_norm(x + self.narrow(nn.functional.gelu(self.widen(x))))
        return out

    def _attended(self, x: Tensor, real: Tensor) -> Tensor:
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        return seen.transpose(1, 2).reshape(x.shape)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, heads, T, H / heads)


class MiniLM(nn.Module):
    def __init__(self, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.word = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position = nn.Embedding(sizes.positions, sizes.width)
        self.segment = nn.Embedding(2, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, LAYER_NORM_EPS)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """One vector a sentence, (B, H), of length 1. tokens: (B, T) int64."""
        x, real = self.hidden(tokens, lengths), real_tokens(lengths, tokens.shape[1])
        return pooled(self.layers[-1](x, real), real)

    def hidden(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """What the last layer is given, (B, T, H)."""
        real = real_tokens(lengths, tokens.shape[1])
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x: Tensor = self.norm(self.word(tokens) + self.position(places) + self.segment.weight[0])
        for layer in self.layers[:-1]:
            x = layer(x, real)
        return x


def real_tokens(lengths: Tensor, longest: int) -> Tensor:
    """(B, T), true for the first `lengths` tokens of each sentence."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def pooled(x: Tensor, real: Tensor) -> Tensor:
    """The mean over a sentence's own tokens, scaled to length 1: (B, T, H) to (B, H)."""
    weights = real[:, :, None].to(x.dtype)
    return nn.functional.normalize((x * weights).sum(1) / weights.sum(1), dim=1)


def layer_state(weights: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """A `Layer`'s state out of BERT's names. Raises KeyError."""
    return _renamed(weights, {ours: f"encoder.layer.{index}.{theirs}" for ours, theirs in LAYER_PARTS.items()})


def minilm_state(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A `MiniLM`'s state out of BERT's names; what else is in the file (a pooler that MiniLM lacks) is left. Raises
    KeyError."""
    state = _renamed(weights, EMBEDDING_PARTS)
    for index in range(layers):
        state |= {f"layers.{index}.{name}": tensor for name, tensor in layer_state(weights, index).items()}
    return state


def _renamed(weights: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    embeddings = ("word", "position", "segment")
    return {
        f"{ours}.{kind}": weights[f"{theirs}.{kind}"]
        for ours, theirs in parts.items()
        for kind in (("weight",) if ours in embeddings else ("weight", "bias"))
    }
