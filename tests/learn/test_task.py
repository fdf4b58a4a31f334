from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gossipnode.learn.names import BUILT_IN, TaskError
from gossipnode.learn.task import Data, Shard, load_task, task_source
from verify.digest import digest_of

HERE = Path(__file__).parent
SELF_CONTAINED = [name for name in BUILT_IN if not name.startswith("sentiment-")]  # the others need MiniLM's weights


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(HERE)
    return "outside_task:TASK"


def test_a_task_outside_the_package(outside: str) -> None:
    task = load_task(outside)
    data = task.data(Shard(index=1, count=4), None)
    assert len(data.rows) == 100
    assert set(task.trainable(task.model(0))) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert task_source(outside) == digest_of((HERE / "outside_task.py").read_bytes()).hex()
    assert type(load_task("outside_task:Spirals")) is type(task), "a class is instantiated"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tasks_have_no_source_digest(name: str) -> None:
    assert task_source(name) == ""


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("mnits", "unknown task 'mnits': did you mean 'mnist'"),
        ("", "built in are digits, mnist, mnist-mlp, sentiment, .*; your own is package.module:attribute"),
        ("../evil:x", "unknown task"),
        ("no_such_module_here:TASK", "cannot import no_such_module_here: ModuleNotFoundError"),
        ("outside_task:NOTHING", "outside_task has no attribute 'NOTHING'"),
        ("outside_task:spirals", "lacks model, data, loss, trainable, metrics"),
        ("outside_task:Path", "lacks model"),
        ("broken_task:TASK", "cannot import broken_task: ZeroDivisionError: division by zero"),
    ],
)
def test_errors_are_one_clear_line(
    spec: str, line: str, outside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_task.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TaskError, match=line) as caught:
        load_task(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["no_such_module_here:TASK", "no_such.module:TASK", "sys:path", "nonsense"])
def test_a_source_that_cannot_be_read_is_one_clear_line(spec: str) -> None:
    with pytest.raises(TaskError):
        task_source(spec)


def test_the_sizes_of_the_built_in_tasks() -> None:
    sizes = {name: sum(p.numel() for p in load_task(name).model(0).parameters()) for name in SELF_CONTAINED}
    assert sizes == {"digits": 4810, "mnist": 47_882, "mnist-mlp": 101_770, "sentiment": 770}


def test_the_test_split_is_fixed_stratified_and_apart() -> None:
    everything = load_task("mnist").data(Shard(), None)
    mine = load_task("mnist-mlp").data(Shard(index=3, count=8, partition="labels"), None)
    assert [len(t) for t in (everything.pool[0], everything.rows, everything.test[0])] == [4000, 4000, 1000]
    assert torch.bincount(everything.test[1]).tolist() == [100] * 10
    assert mine.test[0] is everything.test[0], "one copy for all"
    assert len(mine.rows) == 500
    train = {image.numpy().tobytes() for image in everything.pool[0]}
    assert sum(image.numpy().tobytes() in train for image in everything.test[0]) == 0


def own(path: Path, **arrays: NDArray[Any]) -> Data:
    np.savez(path, allow_pickle=True, **arrays)
    return load_task("digits").data(Shard(), path)


def test_a_node_with_images_of_its_own(tmp_path: Path) -> None:
    x, y = np.random.RandomState(0).randint(0, 17, (50, 8, 8)), np.arange(50) % 10
    data = own(tmp_path / "a.npz", x=x, y=y)
    assert [len(data.rows), len(data.test[0])] == [40, 10]
    data = own(tmp_path / "b.npz", x=x / 16, y=y, test_x=x[:5].reshape(5, 64) / 16, test_y=y[:5])
    assert [len(data.rows), len(data.test[0])] == [50, 5]
    assert data.pool[0].dtype == torch.float32


BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": np.zeros((3, 8, 8))}, "no array named y"),
    ({"x": np.zeros((3, 9, 9)), "y": np.zeros(3, int)}, "images of 8 x 8"),
    ({"x": np.zeros((0, 8, 8)), "y": np.zeros(0, int)}, "images of 8 x 8"),
    ({"x": np.zeros((3, 8, 8)), "y": np.zeros(3)}, "whole numbers from 0 to 9"),
    ({"x": np.zeros((3, 8, 8)), "y": np.array([0, 1, 10])}, "whole numbers from 0 to 9"),
    ({"x": np.full((3, 8, 8), 17), "y": np.zeros(3, int)}, "must be whole numbers in 0..16"),
    ({"x": np.full((3, 8, 8), np.nan), "y": np.zeros(3, int)}, "fractions in 0..1"),
    ({"x": np.full((3, 8, 8), "a"), "y": np.zeros(3, int)}, "whole numbers in 0..16"),
    ({"x": np.full((3, 8, 8), None), "y": np.zeros(3, int)}, "not an .npz file that can be read"),
    ({"x": np.zeros((1, 8, 8)), "y": np.zeros(1, int)}, "too few images"),
]


@pytest.mark.parametrize(("arrays", "line"), BAD)
def test_bad_data_is_one_clear_line(arrays: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=line) as caught:
        own(tmp_path / "bad.npz", **arrays)
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04 cut short"])
def test_what_is_no_npz_file_is_one_clear_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskError, match=r"bad.npz: not an .npz file"):
        load_task("digits").data(Shard(), path)


def test_an_npy_file_is_not_an_npz_file(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(TaskError, match=r"not an .npz file with arrays x and y"):
        load_task("digits").data(Shard(), tmp_path / "bare.npy")
