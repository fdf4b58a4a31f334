"""The sentiment tasks from end to end, on a tiny random MiniLM and invented sentences: nothing is fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.names import TaskError
from gossipnode.learn.prepare import prepare_task
from gossipnode.learn.questions import read_question
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import load_task
from gossipnode.learn.tasks import features, pinned, reviews, sentiment
from gossipnode.learn.tasks.features import Encoded
from gossipnode.learn.tasks.minilm import EMBEDDING_PARTS, LAYER_PARTS, Sizes
from gossipnode.learn.tasks.pinned import Pinned
from gossipnode.learn.tasks.reviews import Sentences
from gossipnode.scenario import Setting, scenario_of
from gossipnode.simulation import simulate
from protocols.learner import Unanswerable
from protocols.manifest import Training

TINY = Sizes(vocabulary=64, positions=64, width=16, wide=32, heads=2, layers=2)
NAMES = ("sentiment", "sentiment-bias", "sentiment-lora")
GOOD, BAD = ("fine", "great", "moving", "witty", "bright"), ("dull", "weak", "stale", "noisy", "awful")


def rated(count: int = 200) -> str:
    """As the shipped file has them; every tenth is rated too near to zero to count."""
    lines = []
    for number in range(count):
        word = (GOOD if number % 2 else BAD)[number // 2 % 5]
        rating = 0.3 if number % 10 == 9 else 2.0 if number % 2 else -2.0
        lines.append(f"{number}\t{rating}\t a {word} film no {number} \r\n")
    return "".join(lines)


def tiny_weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    width, found = TINY.width, dict[str, Tensor]()
    for part, rows in zip(EMBEDDING_PARTS.values(), (TINY.vocabulary, TINY.positions, 2, 0), strict=True):
        found[f"{part}.weight"] = torch.randn((rows, width) if rows else (width,), generator=draw)
    found["embeddings.LayerNorm.bias"] = torch.zeros(width)
    for index in range(TINY.layers):
        for ours, part in LAYER_PARTS.items():
            name = f"encoder.layer.{index}.{part}"
            out, into = TINY.wide if ours == "widen" else width, TINY.wide if ours == "narrow" else width
            shape = (width,) if ours.endswith("norm") else (out, into)
            found[f"{name}.weight"] = torch.randn(shape, generator=draw) * (1 if ours.endswith("norm") else 0.3)
            found[f"{name}.bias"] = torch.zeros(out)
    return found


def tokens(task: str, sentences: Sentences, most: int) -> Encoded:
    """Stands in for the tokenizers library: a word is a number."""
    rows = [[1 + hashlib.sha256(word.encode()).digest()[0] % 60 for word in text.split()] for text in sentences.texts]
    cut = [torch.tensor(row[:most]) for row in rows]
    return Encoded(nn.utils.rnn.pad_sequence(cut, batch_first=True), torch.tensor([len(row) for row in cut]))


def put(folder: Path, file: Pinned, data: bytes) -> Pinned:
    (folder / file.name).write_bytes(data)
    return Pinned(file.name, hashlib.sha256(data).hexdigest(), file.archive, file.member)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache that holds the three files, small."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv(pinned.CACHE_VARIABLE, str(folder))
    monkeypatch.setattr(features, "SIZES", TINY)
    monkeypatch.setattr(features, "_tokens", tokens)
    monkeypatch.setattr(features, "WEIGHTS", put(folder, features.WEIGHTS, safetensors.torch.save(tiny_weights())))
    monkeypatch.setattr(features, "VOCABULARY", put(folder, features.VOCABULARY, b"{}"))
    monkeypatch.setattr(reviews, "RATED", put(folder, reviews.RATED, rated().encode()))
    forget()
    yield folder
    forget()


def forget() -> None:
    """As a new process would begin."""
    sentiment.prepared.cache_clear()
    features.last_layer.cache_clear()
    features._kept_backbone.cache_clear()


# -- sentences --------------------------------------------------------------------------------------------------------


def test_the_split_is_what_it_was() -> None:
    texts = [f"sentence {number}" for number in range(40)]
    assert [number for number in range(40) if reviews.for_testing(texts[number])] == [2, 18, 27, 28, 33, 35]


def test_raters_who_disagree_are_left_out(cache: Path) -> None:
    sentences = reviews.shipped("sentiment")
    assert len(sentences.texts) == 180
    assert sentences.texts[:2] == ("a dull film no 0", "a fine film no 1"), "stripped"
    assert sentences.labels[:2] == (0, 1)


def test_every_sentence_is_on_one_side(cache: Path) -> None:
    everything = reviews.shipped("sentiment")
    training, test = everything.chosen(test=False), everything.chosen(test=True)
    assert set(training.texts).isdisjoint(test.texts)
    assert len(training.texts) + len(test.texts) == 180
    assert 0.1 < len(test.texts) / 180 < 0.3


# -- the three tasks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_training_learns(name: str, cache: Path) -> None:
    engine = Engine(LearnerConfig(task=name, training=Training(lr=0.05, epochs=10)))
    data = engine.data(Shard())
    before = engine.initial()
    after = engine.train(before, data, seed=1).blob
    was, now = engine.evaluate(before, data), engine.evaluate(after, data)
    assert now["loss"] < was["loss"] - 0.05
    assert now["accuracy"] > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_shards_share_one_pool_and_cover_it(name: str, cache: Path) -> None:
    task = load_task(name)
    first, second = (task.data(Shard(index=index, count=2), None) for index in range(2))
    assert first.pool[0] is second.pool[0]
    assert sorted([*first.rows.tolist(), *second.rows.tolist()]) == list(range(len(first.pool[0])))
    assert first.test[0] is second.test[0]


def names(name: str) -> set[str]:
    task = load_task(name)
    torch.manual_seed(0)
    return set(task.trainable(task.model(0)))


def test_only_what_is_trained_travels(cache: Path) -> None:
    assert names("sentiment") == {"weight", "bias"}
    low = {f"last.{part}.{side}" for part in ("query", "value") for side in ("down", "up")}
    assert names("sentiment-lora") == {"head.weight", "head.bias"} | low
    biases = {f"last.{part}.bias" for part in LAYER_PARTS}
    norms = {"last.mix_norm.weight", "last.narrow_norm.weight"}
    assert names("sentiment-bias") == {"head.weight", "head.bias"} | biases | norms


@torch.no_grad()
def test_untrained_adapters_give_the_vectors_of_the_head(cache: Path) -> None:
    sentences = reviews.shipped("sentiment")
    expected = features.vectors("sentiment", sentences)
    hidden, lengths = features.hidden("sentiment-lora", sentences)
    model = load_task("sentiment-lora").model(0)
    assert isinstance(model, sentiment.Tuned)
    found = features.classified(hidden, lengths, model.last)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)  # hidden is kept in half precision
    torch.testing.assert_close(expected.norm(dim=1), torch.full((180,), features.FEATURE_NORM))


# -- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sentiment", "sentiment-lora"])
def test_a_sentence_that_is_asked_about_is_what_it_is_in_the_data(
    cache: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    engine, sentences = Engine(LearnerConfig(task=name, seed=5)), reviews.shipped(name)
    model = engine.train(engine.initial(), engine.data(Shard()), seed=1).blob
    capfd.readouterr()
    before = sorted(cache.iterdir())
    chosen = sentences.texts[:2]

    def scores(text: str) -> Tensor:
        return torch.frombuffer(bytearray(engine.answer(model, text.encode())), dtype=torch.float32).view(-1, 2)

    alone = [scores(f" {text}\n\n")[0] for text in chosen]
    both = scores("\n".join(chosen))
    torch.testing.assert_close(torch.stack(alone), both, atol=1e-3, rtol=0)
    assert both.argmax(1).tolist() == list(sentences.labels[:2])
    assert [engine.task.answer(row).split()[0] for row in both] == ["negative", "positive"]
    assert sorted(cache.iterdir()) == before, "nothing that was asked is kept"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("data", [b"", b" \n\n", b"caf\xe9", b"word\n" * 257, b"\x00\xff" * 100])
def test_what_is_no_text_is_refused(cache: Path, data: bytes) -> None:
    with pytest.raises(Unanswerable, match=r"UTF-8|1 to 256 lines of text are wanted"):
        read_question(load_task("sentiment"), data)


def test_the_same_seed_gives_the_same_adapters(cache: Path) -> None:
    first, again = (Engine(LearnerConfig(task="sentiment-lora", seed=5)).initial() for _ in range(2))
    assert first == again
    assert first != Engine(LearnerConfig(task="sentiment-lora", seed=6)).initial()


# -- the cache --------------------------------------------------------------------------------------------------------


def made(folder: Path) -> set[Path]:
    return set(folder.glob("minilm-vectors-*.safetensors"))


def test_sentences_are_encoded_once(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = load_task("sentiment").data(Shard(), None)
    said = capfd.readouterr().err.splitlines()
    assert said[0] == f"task sentiment: encoding {len(first.pool[0])} sentences, once for this machine"
    assert len(made(cache)) == 2, "training, test"
    forget()
    (cache / features.WEIGHTS.name).unlink()
    again = load_task("sentiment").data(Shard(), None)
    assert capfd.readouterr().err == ""
    assert torch.equal(first.pool[0], again.pool[0])


def test_other_weights_or_sentences_are_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features.vectors("sentiment", Sentences(("a film",), (1,)))
    features.vectors("sentiment", Sentences(("a film", "b"), (1, 1)))
    assert len(made(cache)) == 2
    other = safetensors.torch.save({name: tensor + 1 for name, tensor in tiny_weights().items()})
    monkeypatch.setattr(features, "WEIGHTS", put(cache, features.WEIGHTS, other))
    features.vectors("sentiment", Sentences(("a film",), (1,)))
    assert len(made(cache)) == 3


@pytest.mark.parametrize("left", [b"", b"torn", None])
def test_a_damaged_cache_file_is_made_again(left: bytes | None, cache: Path) -> None:
    sentences = Sentences(("a film", "no film"), (1, 0))
    expected = features.vectors("sentiment", sentences).clone()
    (path,) = made(cache)
    path.write_bytes(path.read_bytes()[:-8] if left is None else left)
    assert torch.equal(features.vectors("sentiment", sentences), expected)


def test_an_unwritable_cache_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *parts: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "write_whole", refuse)
    with pytest.raises(TaskError, match=r"cannot write to the cache .*: No space left on device; name another folder"):
        features.vectors("sentiment", Sentences(("a film",), (1,)))


# -- what is missing, and a node's own sentences ----------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "movieReviewSnippets_GroundTruth.txt"])
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_names_the_command(name: str, file: str, cache: Path) -> None:
    for path in cache.glob(f"*{file}"):
        path.unlink()
    line = f"^task {name}: .*{file} is not here; run once: gossipnode prepare {name}$"
    with pytest.raises(TaskError, match=line):
        load_task(name).data(Shard(), None)


def test_a_missing_extra_is_named_before_anything_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TaskError) as caught:
        sentiment.HEAD.prepare()
    assert str(caught.value) == ("task sentiment needs the extra `sentiment`: pip install 'gossipnode[sentiment]'")


def test_prepare_says_what_it_did(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "require_extra", lambda task: None)
    monkeypatch.setattr(sentiment, "FILES", (reviews.RATED,))
    assert prepare_task("sentiment") == "sentiment is ready"
    assert len(made(cache)) == 2
    assert prepare_task("digits") == "digits needs no preparation"


def own_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_node_with_sentences_of_its_own(cache: Path, tmp_path: Path) -> None:
    lines = [f"{number % 2}\tsatz nr {number}, schön" for number in range(50)]
    path = own_file(tmp_path / "own.tsv", "\n".join(lines) + "\n\n")
    data = load_task("sentiment").data(Shard(index=1, count=2), path)
    assert len(data.pool[0]) + len(data.test[0]) == 50
    assert len(data.rows) == len(data.pool[0]) // 2
    assert set(data.pool[1].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "too few sentences"),
        ("1\tone sentence only\n", "too few sentences"),
        ("1\tgood\n2\tbad\n", "line 2: expected 0 or 1, a tab and a sentence"),
        ("1 good\n", "line 1: expected 0 or 1"),
        ("1\t \n", "line 1: expected 0 or 1"),
        ("\ud800", "not text in UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_bad_sentences_are_one_clear_line(text: str | None, line: str, tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(TaskError, match=line) as caught:
        reviews.own(path)
    assert str(caught.value).startswith(f"data {path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["modest", "gossip"])
def test_nodes_of_three_ranks_train_one_set_of_adapters(
    protocol: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentiment, "RANK", 8)
    setting = Setting(
        nodes=6,
        protocol=protocol,
        task="sentiment-lora",
        rounds=6,
        rank="2,4,8",
        manifest={
            "merging": {"rule": "flora"},
            "training": {"lr": 0.05, "epochs": 4},
            "modest": {"trainers": 4, "aggregators": 2},
            "audit": {"fraction": 0.5},
        },
    )
    outcome = simulate(scenario_of(setting))
    assert outcome.succeeded
    assert outcome.report.accuracy.mean > 0.75
    assert outcome.report.falsely_expelled == []
