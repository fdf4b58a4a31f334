"""The real weights and sentences, where `gossipnode prepare sentiment` has put them; nothing is fetched here.

The vectors were computed by the transformers library (4.57, BertModel and BertTokenizerFast on the same files).
"""

from __future__ import annotations

import pytest
import torch

from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from gossipnode.learn.shard import Shard
from gossipnode.learn.tasks import features, reviews
from gossipnode.learn.tasks.reviews import Sentences
from gossipnode.learn.tasks.sentiment import FILES
from protocols.manifest import Training

pytestmark = pytest.mark.skipif(
    any(file.path() is None for file in FILES), reason="84 MB that tests do not fetch: gossipnode prepare sentiment"
)

KNOWN = {
    "Effective but too tepid biopic": [-0.054126, 0.052918, -0.038733, 0.012134, 0.006419, -0.012985],
    "The Rock is destined to be the 21st Century's new ''Conan''.": [
        *(0.011131, 0.033879, 0.064286, -0.088942, -0.033625, 0.075977)
    ],
    "Ça va?": [0.025313, 0.043594, 0.031962, 0.020813, -0.078962, 0.012114],
}


@torch.no_grad()
def test_vectors_are_those_of_the_original() -> None:
    pytest.importorskip("tokenizers", reason="the extra `sentiment` is not installed")
    encoded = features._tokens("sentiment", Sentences(tuple(KNOWN), (0, 1, 1)), features.MOST_TOKENS)
    assert encoded.lengths.tolist() == [9, 20, 5]
    found = features._backbone("sentiment")(encoded.tokens, encoded.lengths)
    torch.testing.assert_close(found[:, :6], torch.tensor(list(KNOWN.values())), atol=2e-6, rtol=0)


def test_the_sentences_are_what_they_were() -> None:
    sentences = reviews.shipped("sentiment")
    training, test = sentences.chosen(test=False), sentences.chosen(test=True)
    assert (len(sentences.texts), len(training.texts), len(test.texts)) == (10_072, 8035, 2037)
    assert (sum(training.labels), sum(test.labels)) == (3973, 1023)
    assert sentences.digest().hex()[:16] == "cd316d99cda0f77c"


def test_a_head_learns_what_is_to_be_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_tokens", lambda *_: pytest.skip("encoding takes a minute: gossipnode prepare"))
    engine = Engine(LearnerConfig(task="sentiment", training=Training(lr=0.02, batch=100, epochs=5)))
    data = engine.data(Shard())
    model = engine.train(engine.initial(), data, seed=0).blob
    assert engine.evaluate(model, data)["accuracy"] > 0.77  # logistic regression has 0.81, guessing 0.50
