"""The sums of signs: golden vectors, and every kernel against the definition, whatever length, batch and threads."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipnode.learn.kernels import host as hosts
from gossipnode.learn.kernels.accumulator import LARGEST, HostAccumulator
from gossipnode.learn.kernels.device import DeviceAccumulator, bits
from gossipnode.learn.kernels.device import words as words_on_a_device
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.kernels.plan import INPUTS, PLANES, ROWS, plan, room
from gossipnode.learn.kernels.signs import reference_sum, signs, words
from protocols.learner import Unfit
from verify.digest import digest_of
from verify.jit import COMPILES

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "spsa.json").read_text())
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"))
WAYS = [
    pytest.param("compiled", marks=pytest.mark.skipif(not COMPILES, reason="numba is not installed")),
    "plain",
    "cpu",
    CUDA,
]
QUANTUM = 2.0**-16


def accumulator(way: str, length: int) -> HostAccumulator | DeviceAccumulator:
    theta0 = np.linspace(-1, 1, length, dtype=np.float32)
    if way in ("compiled", "plain"):
        return HostAccumulator(theta0, QUANTUM, Host(compiled=way == "compiled"))
    return DeviceAccumulator(theta0, QUANTUM, torch.device(way))


def read(a: HostAccumulator | DeviceAccumulator) -> np.ndarray[Any, Any]:
    return np.frombuffer(a.snapshot(), dtype="<i4")


def draw(count: int, largest: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    chance = np.random.default_rng(seed)
    return chance.integers(0, 2**64, count, dtype=np.uint64), chance.integers(-largest, largest + 1, count)


def golden_updates() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    index = np.arange(GOLDEN["updates"]["count"])
    names = (f"gossipnode golden {i}".encode() for i in index)
    seeds = [int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") for name in names]
    coefficients = (37 * index % 255 - 127) * (index % 5 + 1)
    assert [str(seed) for seed in seeds[:3]] == GOLDEN["updates"]["seeds"]
    assert coefficients[:8].tolist() == GOLDEN["updates"]["coefficients"]
    return np.array(seeds, dtype=np.uint64), coefficients


@pytest.mark.parametrize("stream", GOLDEN["streams"], ids=lambda stream: stream["seed"])
def test_golden_streams(stream: dict[str, Any]) -> None:
    seed = int(stream["seed"])
    assert [f"{word:016x}" for word in words(seed, 0, 4)] == stream["words"]
    assert [f"{word:016x}" for word in words(seed, 2**40, 2)] == stream["words from 2^40"]
    assert "".join("+" if sign > 0 else "-" for sign in signs(seed, 80)) == stream["signs"]


def test_the_stream_is_splitmix64_as_published() -> None:
    assert words(1_234_567, 0, 3).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("length", GOLDEN["updates"]["digest of A by length"])
@pytest.mark.parametrize("way", WAYS)
def test_golden_digests_of_a_thousand_updates(way: str, length: str) -> None:
    a = accumulator(way, int(length))
    a.add(*golden_updates())
    assert a.digest().hex() == GOLDEN["updates"]["digest of A by length"][length]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 64, 513])
@pytest.mark.parametrize("way", WAYS)
def test_every_kernel_agrees_with_the_definition(way: str, count: int) -> None:
    for length, largest in ((1, 127), (63, 1), (64, 127), (65, 4000), (1000, 127), (16_449, 300)):
        seeds, coefficients = draw(count, largest, seed=length)
        a = accumulator(way, length)
        a.add(seeds, coefficients)
        assert np.array_equal(read(a), reference_sum(seeds, coefficients, length))
        a.add(seeds, -coefficients)
        assert not read(a).any()


@pytest.mark.parametrize("largest", [0, 1, 127, 2**20, 2**23, 2**24 - 1, 2**24, 2**27])
@pytest.mark.parametrize("way", WAYS)
def test_coefficients_of_any_size(way: str, largest: int) -> None:
    """Around 2^24 a batch is cut, or a record goes alone."""
    seeds, _ = draw(9, 1)
    coefficients = np.array([largest, -largest, 0, 1, largest, -1, largest // 2, -largest, -largest])
    a = accumulator(way, 130)
    a.add(seeds, coefficients)
    assert np.array_equal(read(a), reference_sum(seeds, coefficients, 130))


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(-128 * 200, 128 * 200)), max_size=40), st.data())
@settings(max_examples=30)
def test_neither_order_nor_batches_matter(updates: list[tuple[int, int]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(updates))
    cut = data.draw(st.integers(0, len(updates)))
    whole, pieces = accumulator("plain", 200), accumulator("compiled" if COMPILES else "plain", 200)
    whole.add(*columns(updates))
    pieces.add(*columns(shuffled[:cut]))
    pieces.add(*columns(shuffled[cut:]))
    assert whole.digest() == pieces.digest()


def columns(updates: list[tuple[int, int]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    seeds = np.array([seed for seed, _ in updates], dtype=np.uint64)
    return seeds, np.array([coefficient for _, coefficient in updates], dtype=np.int64)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=WAYS[0].marks), False])  # type: ignore[union-attr]  # a param
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_do_not_matter(compiled: bool, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "ALONE", 0)
    host = Host(threads, compiled=compiled)
    theta0 = np.linspace(-1, 1, 33_333, dtype=np.float32)
    for length in (1, 64, 129, 33_333):
        seeds, coefficients = draw(70, 127)
        a = np.zeros(length, dtype=np.int32)
        host.add(a, seeds, coefficients)
        host.add(a, seeds[:1], coefficients[:1])
        alone = accumulator("plain", length)
        alone.add(seeds, coefficients)
        alone.add(seeds[:1], coefficients[:1])
        assert np.array_equal(a, read(alone))
        moved, expected = np.empty(length, dtype=np.float32), np.empty(length, dtype=np.float32)
        host.perturb(moved, theta0[:length], a, quantum=QUANTUM, seed=7, eps=0.01)
        Host(compiled=False).perturb(expected, theta0[:length], a, quantum=QUANTUM, seed=7, eps=0.01)
        assert np.array_equal(moved, expected)
    host.close()


@pytest.mark.parametrize("length", [1, 31, 64, 100, 16_500])
@pytest.mark.parametrize("way", WAYS)
def test_perturbing_is_the_same_to_the_last_bit(way: str, length: int) -> None:
    a = accumulator(way, length)
    a.add(*draw(300, 127 * 400))
    device = "cuda" if way == "cuda" else "cpu"
    out = torch.empty(length, device=device)
    theta0 = np.linspace(-1, 1, length, dtype=np.float32)
    theta = theta0 + np.float32(QUANTUM) * read(a).astype(np.float32)
    a.materialise(out)
    assert np.array_equal(out.cpu().numpy(), theta)
    for eps in (0.01, -0.01):
        a.perturb(out, 2**64 - 3, eps)
        assert np.array_equal(out.cpu().numpy(), theta + np.float32(eps) * signs(2**64 - 3, length))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_words_and_bits_on_a_device(device: str) -> None:
    seeds = [0, 2**63, 2**64 - 1]
    on_device = torch.tensor([seed - 2**64 if seed >= 2**63 else seed for seed in seeds], device=device)
    made = words_on_a_device(on_device, 2**40, 5).cpu().numpy().view(np.uint64)
    assert np.array_equal(made, [words(seed, 2**40, 5) for seed in seeds])
    z = bits(words_on_a_device(on_device, 0, 3)[1]).cpu().numpy() * 2 - 1
    assert np.array_equal(z, signs(2**63, 192))


def test_a_device_adds_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossipnode.learn.kernels.device.SCRATCH", 256)
    a = accumulator("cpu", 4810)
    a.add(*golden_updates())
    assert a.digest().hex() == GOLDEN["updates"]["digest of A by length"]["4810"]
    out = torch.empty(4810)
    a.perturb(out, 5, 0.5)
    middle = torch.empty(4810)
    a.materialise(middle)
    assert np.array_equal(out.numpy(), middle.numpy() + np.float32(0.5) * signs(5, 4810))


def test_a_memory_map_is_as_good_as_memory(tmp_path: Path) -> None:
    file = np.memmap(tmp_path / "a", dtype=np.int32, mode="w+", shape=(20_000,))
    mapped = HostAccumulator(np.zeros(20_000, dtype=np.float32), QUANTUM, Host(), file)
    inside = accumulator("plain", 20_000)
    for a in (mapped, inside):
        a.add(*golden_updates())
    file.flush()
    assert mapped.digest() == inside.digest() == digest_of((tmp_path / "a").read_bytes())


@pytest.mark.parametrize("way", WAYS)
def test_a_snapshot_is_what_the_digest_names(way: str) -> None:
    a, other = accumulator(way, 321), accumulator("plain", 321)
    a.add(*draw(20, 127))
    assert digest_of(a.snapshot()) == a.digest()
    other.restore(a.snapshot())
    assert other.digest() == a.digest()
    a.restore(bytes(4 * 321))
    assert not read(a).any()


@pytest.mark.parametrize("way", WAYS)
def test_a_snapshot_that_does_not_fit_is_unfit(way: str) -> None:
    a = accumulator(way, 3)
    for bad in (b"", bytes(11), bytes(13), np.array([0, 0, -(2**31)], dtype="<i4").tobytes()):
        with pytest.raises(Unfit):
            a.restore(bad)


@pytest.mark.parametrize("way", WAYS)
def test_an_overflow_is_caught_before_it_happens(way: str) -> None:
    a = accumulator(way, 70)
    seeds = np.array([9, 9], dtype=np.uint64)
    for _ in range(3):  # the bound is crossed many times, the sum never
        a.add(seeds, np.array([2**29, 0]))
        a.add(seeds, np.array([-(2**29), 0]))
    a.add(seeds[:1], np.array([LARGEST]))
    before = a.snapshot()
    with pytest.raises(AssertionError, match="overflow"):
        a.add(seeds[:1], np.array([1]))
    assert a.snapshot() == before


def test_a_plan_adds_what_it_is_told_and_never_writes_what_it_reads() -> None:
    magnitudes = np.random.default_rng(3).integers(0, 2**24 // 700, 700)
    operations = room(len(magnitudes))
    count = plan(magnitudes, operations)
    values: dict[int, int] = {}
    counted = 0
    for inputs, weight, out, *slots in operations[:count].tolist():
        if inputs == 0:
            values[out] = int(magnitudes[weight])
            counted += values[out]
            continue
        assert inputs in (1, 2, 4, INPUTS)
        assert out not in slots[:inputs]
        assert min(slots[:inputs]) >= ROWS
        assert weight < PLANES
    assert counted == magnitudes.sum()


@pytest.mark.skipif(not COMPILES, reason="numba is not installed")
def test_machine_code_is_kept_where_it_is_told(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, sys\n"
        "from verify import jit\n"
        "jit.cache_in(pathlib.Path(sys.argv[1]))\n"
        "@jit.jit\n"
        "def doubled(x: int) -> int:\n"
        "    return 2 * x\n"
        "assert doubled(4) == 8\n"
    )
    command = [sys.executable, str(program), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache").rglob("*.nbc"))


def test_without_numba_the_sums_are_the_same() -> None:
    program = (
        "import hashlib, importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'numba' else found(name, *more)\n"
        "import numpy as np\n"
        "from gossipnode.learn.kernels.host import Host\n"
        "seeds = [hashlib.blake2b(b'gossipnode golden %d' % i, digest_size=8).digest() for i in range(1000)]\n"
        "index, a = np.arange(1000), np.zeros(4810, dtype=np.int32)\n"
        "Host().add(a, np.frombuffer(b''.join(seeds), dtype='<u8'), (37 * index % 255 - 127) * (index % 5 + 1))\n"
        "assert 'numba' not in sys.modules\n"
        "print(hashlib.blake2b(a.tobytes(), digest_size=32).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == GOLDEN["updates"]["digest of A by length"]["4810"], done.stderr


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
