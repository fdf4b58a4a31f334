"""One-byte training of a model: slopes to bytes, bytes to steps, and what must never change on the way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossipnode.learn.accountant import Privacy
from gossipnode.learn.flat import Flat
from gossipnode.learn.kernels.signs import signs
from gossipnode.learn.rules import Rules
from gossipnode.learn.sgd import Stopped
from gossipnode.learn.shard import Shard
from gossipnode.learn.spsa import Spsa, example_losses, from_bytes, to_bytes
from gossipnode.learn.task import Batch, Data, Task, load_task
from protocols.learner import LearnerError, Unfit
from verify.digest import digest_of

SEEDS = [2**64 - 1, 3, 2**63]


class Normed(Task):
    """A batch norm, dropout, and one frozen layer."""

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def data(self, shard: Shard, path: Path | None) -> Data:
        draw = torch.Generator().manual_seed(3)
        batch = (torch.randn(30, 3, generator=draw), torch.arange(30) % 2)
        return Data(batch, torch.arange(5, 30), batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Adapter(Normed):
    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: p for name, p in model.named_parameters() if name.startswith("3.")}


class BuffersOnly(Normed):
    def trainable(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: b for name, b in model.named_buffers() if b.is_floating_point()}


class Remembers(Normed):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        model[1].running_mean.mul_(0.9)  # type: ignore[index,operator]  # a Sequential with a batch norm
        return super().loss(model, batch)


class Explodes(Normed):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * math.nan


def made(task: Task, rules: Rules | None = None, privacy: Privacy | None = None, device: str = "cpu") -> Spsa:
    flat = Flat(task, 0, torch.device(device))
    data = task.data(Shard(), None)
    return Spsa(flat, task, data, flat.read().copy(), rules or Rules(batch=10, probes=3), privacy=privacy)


def columns(seeds: list[int], coefficients: list[int]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return np.array(seeds, dtype=np.uint64), np.array(coefficients, dtype=np.int64)


@pytest.mark.parametrize(
    ("slope", "byte", "saturated"),
    [
        (0.0, 0, 0),
        (16.0, -127, 0),
        (-16.0, 127, 0),
        (17.0, -127, 1),
        (-1e30, 127, 1),
        (8.0, -64, 0),
        (-8.0, 64, 0),
        (-16 * 0.5 / 127, 0, 0),
        (-16 * 1.5 / 127, 2, 0),
        (-16 * 2.5 / 127, 2, 0),
    ],
)
def test_a_slope_is_rounded_to_a_byte(slope: float, byte: int, saturated: int) -> None:
    """Against the slope; halves to the even byte; 8/16 of 127 is 63.5, so 64."""
    scalars, beyond = to_bytes([slope], 16.0)
    assert from_bytes(scalars).tolist() == [byte]
    assert beyond == saturated


def test_a_byte_is_the_slope_of_the_loss() -> None:
    """z . gradient, but for terms of eps squared and the rounding. The batch is the whole shard."""
    spsa = made(Adapter(), Rules(probes=3, eps=0.01, clip=2.0, batch=25))
    theta = torch.from_numpy(spsa.vector()).double()
    probed = spsa.probe(SEEDS, 0)
    spsa.flat.gradient.zero_()
    loss = spsa._task.loss(spsa.flat.model, tuple(t[spsa.data.rows] for t in spsa.data.pool))
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for seed, byte in zip(SEEDS, from_bytes(probed.scalars).tolist(), strict=True):
        slope = float((spsa.flat.gradient.double() * torch.from_numpy(signs(seed, len(theta)).astype(float))).sum())
        assert byte == pytest.approx(-127 * slope / 2.0, abs=0.6)
    assert probed.loss == pytest.approx(loss.item(), abs=1e-3)
    assert probed.saturated == 0


@pytest.mark.parametrize("task", [Normed(), Adapter(), load_task("digits")])
def test_a_probe_leaves_everything_as_it_was(task: Task) -> None:
    spsa = made(task)
    spsa.add(*columns(SEEDS, [127, -1, 300]))
    before, digest = spsa.vector(), spsa.digest()
    everything = {name: value.clone() for name, value in spsa.flat.model.state_dict().items()}
    first = spsa.probe(SEEDS, 11)
    assert np.array_equal(spsa.vector(), before)
    assert spsa.digest() == digest
    assert all(torch.equal(value, everything[name]) for name, value in spsa.flat.model.state_dict().items())
    assert spsa.probe(SEEDS, 11) == first
    assert spsa.probe(SEEDS, 12) != first


def test_what_a_probe_finds_does_not_depend_on_the_way_to_theta() -> None:
    there, back = made(Normed()), made(Normed())
    updates = columns([5, 6, 7, 8], [127, -127, 3, 90])
    there.add(*updates)
    there.probe(SEEDS, 1)
    for index in (2, 0, 3, 1):
        back.add(*columns([5, 6, 7, 8][index : index + 1], [127, -127, 3, 90][index : index + 1]))
    back.add(*columns([99], [50]))
    back.add(*columns([99], [-50]))
    assert there.digest() == back.digest()
    assert there.probe(SEEDS, 4) == back.probe(SEEDS, 4)
    assert np.array_equal(there.vector(), back.vector())


def test_theta_is_theta0_and_a_quantum_for_each_unit() -> None:
    spsa = made(Adapter())
    theta0 = spsa.vector()
    spsa.add(*columns([42], [1000]))
    gained = np.float32(spsa.rules.quantum) * np.float32(1000) * signs(42, len(theta0))
    assert np.array_equal(spsa.vector(), theta0 + gained)


def test_only_parameters_move_and_buffers_stay_theta0s() -> None:
    spsa = made(Normed())
    before = spsa.vector()
    spsa.add(*columns([1], [100]))
    learned = len(spsa.flat.learned)
    assert 0 < learned < len(before)
    assert (spsa.vector()[:learned] != before[:learned]).all()
    assert np.array_equal(spsa.vector()[learned:], before[learned:])
    assert len(spsa.snapshot()) == 4 * learned


def test_a_snapshot_takes_another_replica_to_the_same_place() -> None:
    old, new = made(Normed()), made(Normed())
    old.add(*columns(SEEDS, [5, 6, 7]))
    new.add(*columns([1], [99]))
    new.restore(old.snapshot())
    assert new.digest() == old.digest() == digest_of(old.snapshot())
    assert np.array_equal(new.vector(), old.vector())
    third = Flat(Normed(), 5, torch.device("cpu"))
    new.load_into(third)
    assert np.array_equal(third.read(), old.vector())
    with pytest.raises(Unfit, match="a snapshot of 8 bytes"):
        new.restore(bytes(8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_comes_to_the_same_theta() -> None:
    task = load_task("digits")
    here, there = made(task), made(task, device="cuda")
    there.data = Data(tuple(t.cuda() for t in there.data.pool), there.data.rows.cuda(), there.data.test)
    for step in range(20):
        seeds = [digest_of(b"%d %d" % (step, probe)) for probe in range(3)]
        columns_ = [int.from_bytes(seed[:8], "little") for seed in seeds]
        probed = from_bytes(there.probe(columns_, step).scalars)
        assert np.abs(probed - from_bytes(here.probe(columns_, step).scalars)).max() <= 1
        for spsa in (here, there):
            spsa.add(*columns(columns_, (19 * probed).tolist()))
        assert here.digest() == there.digest()
        assert np.array_equal(here.vector(), there.vector())


@pytest.mark.parametrize(
    ("task", "line"), [(Remembers(), "changes a buffer"), (Explodes(), "the loss became nan; a lower multiplier")]
)
def test_a_loss_that_cannot_be_probed_is_one_line_and_theta_stays(task: Task, line: str) -> None:
    spsa = made(task)
    learned = spsa.vector()[: len(spsa.flat.learned)]
    with pytest.raises(LearnerError, match=line):
        spsa.probe(SEEDS, 0)
    assert np.array_equal(spsa.vector()[: len(learned)], learned)


def test_a_task_without_parameters_is_refused() -> None:
    with pytest.raises(LearnerError, match="names only buffers"):
        made(BuffersOnly())


def test_a_node_without_examples_says_so() -> None:
    spsa = made(Normed())
    spsa.data = Data(spsa.data.pool, torch.arange(0), spsa.data.test)
    with pytest.raises(LearnerError, match="no examples"):
        spsa.probe(SEEDS, 0)


def test_stop_is_asked_between_probes_and_theta_stays() -> None:
    spsa = made(Normed())
    before = spsa.vector()
    asked = iter([False, True])
    with pytest.raises(Stopped):
        spsa.probe(SEEDS, 0, stop=lambda: next(asked))
    assert next(asked, None) is None
    assert np.array_equal(spsa.vector(), before)


# -- privacy ----------------------------------------------------------------------------------------------------------


class Branching(Normed):
    """Its course depends on values, which has no batched form."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * (2.0 if float(batch[0].sum()) > 0 else 1.0)


@pytest.mark.parametrize("task", [Normed(), Branching()])
def test_losses_of_examples_are_those_of_batches_of_one(task: Task) -> None:
    spsa = made(task)
    spsa.flat.model.eval()
    with torch.no_grad():
        losses = example_losses(task, spsa.flat.model, spsa.data.pool)
        alone = [task.loss(spsa.flat.model, tuple(t[i : i + 1] for t in spsa.data.pool)) for i in range(30)]
        assert torch.allclose(losses, torch.stack(alone), atol=1e-6)
        assert len(example_losses(task, spsa.flat.model, tuple(t[:0] for t in spsa.data.pool))) == 0


def test_without_noise_or_clip_to_speak_of_privacy_changes_only_the_batch() -> None:
    """All examples in each batch, so that the slopes of the two ways can be compared."""
    rules = Rules(probes=3, clip=1.0, batch=25)
    plain, private = made(Normed(), rules), made(Normed(), rules, Privacy(example_clip=1e5, sigma=1e-12))
    expected, found = plain.probe(SEEDS, 0), private.probe(SEEDS, 0)
    assert np.abs(from_bytes(expected.scalars) - from_bytes(found.scalars)).max() <= 1
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_no_example_counts_for_more_than_its_clip() -> None:
    """With a clip below every slope, the sum is one of signs: at most clip * n / n."""
    rules = Rules(probes=3, clip=1.0, batch=25)
    private = made(Normed(), rules, Privacy(example_clip=0.01, sigma=1e-9))
    assert np.abs(from_bytes(private.probe(SEEDS, 0).scalars)).max() <= math.ceil(1.27)


def test_the_noise_is_as_wide_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """sigma * clip / batch = 0.2 a probe, in 127ths 25.4: with the chance of one seed in place of the system's."""
    monkeypatch.setattr("gossipnode.learn.spsa._CHANCE", random.Random(0))
    private = made(Adapter(), Rules(clip=1.0, batch=25), Privacy(example_clip=1e-3, sigma=5000.0))
    assert np.std(from_bytes(private.probe(range(120), 0).scalars)) == pytest.approx(25.4, rel=0.15)


def test_the_noise_is_never_the_same() -> None:
    private = made(Adapter(), Rules(clip=1.0, batch=25), Privacy(example_clip=1e-3, sigma=5000.0))
    assert private.probe(range(10), 0).scalars != private.probe(range(10), 0).scalars


def test_secret_batches_have_the_size_on_average_that_the_accountant_assumes(monkeypatch: pytest.MonkeyPatch) -> None:
    private = made(Normed(), Rules(batch=10), Privacy(example_clip=1.0, sigma=1.0))
    monkeypatch.setattr("gossipnode.learn.spsa.secrets.randbits", _counter())
    sizes = [len(private._secret_batch()[0]) for _ in range(500)]
    assert np.mean(sizes) == pytest.approx(10, abs=0.5)
    assert np.std(sizes) == pytest.approx(math.sqrt(25 * 0.4 * 0.6), rel=0.15)


def _counter() -> Callable[[int], int]:
    state = iter(range(10**6))
    return lambda bits: next(state)
