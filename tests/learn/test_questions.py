"""What a file becomes: a task's input, or a line that says why it is none, whatever its bytes."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gossipnode.learn.arrays import numbers
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import encode
from gossipnode.learn.engine import Engine
from gossipnode.learn.images import DIGITS, MNIST
from gossipnode.learn.questions import in_words, read_question
from gossipnode.learn.rules import Rules
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import Batch, Data, Task
from protocols import limits
from protocols.learner import Unanswerable, Unfit


def npy(array: Any, **more: Any) -> bytes:  # noqa: ANN401  # whatever numpy can save
    file = io.BytesIO()
    np.save(file, array, **more)
    return file.getvalue()


def header(text: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode("latin1") + body


GOOD = npy(np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "u1", "<i8", "?"])
def test_numbers_of_every_kind(dtype: str) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    assert numbers(npy(array)).tolist() == [[0, 1], [1, 0], [1, 1]]
    assert numbers(npy(np.asfortranarray(array))).tolist() == [[0, 1], [1, 0], [1, 1]]


HOSTILE = {
    "nothing": b"",
    "text": b"how do you do",
    "cut": GOOD[:-1],
    "longer": GOOD + b"x",
    "only the magic": GOOD[:6],
    "another version": b"\x93NUMPY\x09\x00" + GOOD[8:],
    "version 3": b"\x93NUMPY\x03\x00" + GOOD[8:],
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n(S'ls'\ntR."),
    "strings": npy(np.array(["a", "b"])),
    "records": npy(np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")])),
    "a scalar": npy(np.float32(3)),
    "no examples": npy(np.zeros((0, 3), dtype=np.float32)),
    "complex": npy(np.ones(3, dtype=complex)),
    "dates": npy(np.zeros(3, dtype="<M8[s]")),
    "not finite": npy(np.array([1.0, np.nan])),
    "beyond float32": npy(np.array([1e300])),
    "an exabyte": header("{'descr': '<f4', 'fortran_order': False, 'shape': (288230376151711744,), }"),
    "16 GB": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000,), }", bytes(64)),
    "negative": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -8), }", bytes(64)),
    "no numbers": header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 16), }", bytes(64)),
    "no dictionary": header("[1, 2]"),
    "not Python": header("{'descr': "),
    "open brackets": header("(" * 9000),
    "longs of Python 2": header("{'descr': '<f4', 'fortran_order': False, 'shape': (16L,, }", bytes(64)),
    "a dtype of dtypes": header("{'descr': [('a', '<f4', (3, 99999999))], 'fortran_order': False, 'shape': (1,), }"),
}


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # numpy's own, of a header that it must repair
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_array_is_refused_and_costs_nothing(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Unanswerable) as refusal:
            numbers(data)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@settings(max_examples=300)
@given(st.data())
def test_bent_files(data: st.DataObject) -> None:
    bent = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unanswerable):
        assert torch.isfinite(numbers(bytes(bent))).all()


# -- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (64,), (1, 8, 8), (1, 1, 8, 8), (1, 64)])
def test_an_image_however_it_is_shaped(shape: tuple[int, ...]) -> None:
    pixels = np.arange(64) % 17
    (whole,) = read_question(DIGITS, npy(pixels.reshape(shape).astype(np.uint8)))
    (parts,) = read_question(DIGITS, npy((pixels / 16).reshape(shape)))
    assert whole.shape == (1, 1, 8, 8)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((28, 28)), "images of 8 x 8 are wanted, not (28, 28)"),
        (np.zeros(65), "images of 8 x 8 are wanted, not (65,)"),
        (np.full((8, 8), 17), "pixels are whole numbers in 0..16"),
        (np.full((8, 8), -0.5), "pixels are whole numbers in 0..16"),
        (np.zeros((limits.QUESTION_ROWS + 1, 8, 8), dtype=np.uint8), "257 examples in one question"),
    ],
)
def test_what_is_no_image(array: Any, why: str) -> None:  # noqa: ANN401  # numpy's
    with pytest.raises(Unanswerable) as refusal:
        read_question(DIGITS, npy(array))
    assert why in str(refusal.value)


class Written(Task):
    """An operator's own, whose reader falls over."""

    def model(self, seed: int) -> nn.Module:
        return nn.Linear(3, 2)

    def data(self, shard: Shard, path: Path | None) -> Data:
        return Data((torch.zeros(1, 3), torch.zeros(1)), torch.arange(1), (torch.zeros(1, 3), torch.zeros(1)))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch[0]).sum()  # type: ignore[no-any-return]  # a Module's call is untyped


class Falls(Written):
    def question(self, data: bytes) -> Batch:
        raise KeyError("x")


class Bare:
    """Written before tasks could be asked."""

    model, data, loss, trainable, metrics = Written.model, Written.data, Written.loss, Task.trainable, Task.metrics


def test_a_task_that_falls_over_refuses() -> None:
    with pytest.raises(Unanswerable, match="the task cannot read it: KeyError: 'x'"):
        read_question(Falls(), b"?")


def test_a_task_without_a_reader_takes_arrays() -> None:
    bare: Any = Bare()
    assert read_question(bare, GOOD)[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert in_words(bare, np.array([[0.0, 0.0], [-20.0, 20.0]], dtype=np.float32)) == [
        "class 0 (50.0%)",
        "class 1 (100.0%)",
    ]


# -- the engine -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.set_num_threads(1)
    return Engine(LearnerConfig(task="digits", seed=3))


def test_scores_are_the_models_own(engine: Engine) -> None:
    data = engine.data(Shard())
    model = engine.train(engine.initial(), data, seed=1).blob
    images = data.test[0][:20]
    scores = np.frombuffer(engine.answer(model, npy(images.numpy())), "<f4").reshape(20, 10)
    right = (scores.argmax(1) == data.test[1][:20].numpy()).mean()
    assert right > 0.7
    one = np.frombuffer(engine.answer(model, npy(images[3].numpy())), "<f4")
    assert np.allclose(one, scores[3], atol=1e-5)
    assert engine.answer(model, npy(images.numpy())) == scores.tobytes()


def test_a_model_of_another_kind_is_unfit(engine: Engine) -> None:
    other = Engine(LearnerConfig(task="mnist-mlp", seed=3))
    with pytest.raises(Unfit):
        engine.answer(other.initial(), npy(np.zeros((8, 8))))
    with pytest.raises(Unanswerable):
        engine.answer(engine.initial(), b"no image")


def test_in_one_byte_training_the_model_is_theta0_and_a_sum(engine: Engine) -> None:
    steps = Engine(LearnerConfig(task="digits", seed=3, rules=Rules(quantum_exponent=-10)))
    theta0, a = steps.initial(), np.arange(len(steps.flat.learned), dtype="<i4") % 7
    question = npy(np.arange(64).reshape(8, 8) % 17)
    steps.flat.load(np.zeros(steps.template.parameters, dtype=np.float32))
    found = steps.answer(a.tobytes(), question, theta0)
    summed = encode(steps._summed(theta0, a.tobytes()), engine.template)
    assert found == engine.answer(summed, question)
    assert found != engine.answer(theta0, question)
    with pytest.raises(Unfit):
        steps.answer(a.tobytes()[:-4], question, theta0)


def test_a_cnn_answers_too() -> None:
    cnn = Engine(LearnerConfig(task="mnist", seed=3))
    output = cnn.answer(cnn.initial(), npy(np.zeros((2, 28, 28), dtype=np.uint8)))
    assert len(output) == 2 * 10 * 4
    assert read_question(MNIST, npy(np.zeros((28, 28))))[0].shape == (1, 1, 28, 28)
