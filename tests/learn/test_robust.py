"""Rules that stand liars: against their definitions, against liars, and to the bit on whatever machine."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.learn import robust
from gossipnode.learn.encoding import Vector
from gossipnode.learn.kernels import robust as kernels
from gossipnode.learn.merge import by_rule
from gossipnode.learn.models import SLAB, Models, sorting_network, spread
from verify.jit import COMPILES

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "merging.json").read_text())
BITS = Path(__file__).parent / "merging_bits.py"
HERE = runpy.run_path(str(BITS))  # tests import no tests
STANDING, fixed = HERE["STANDING"], HERE["fixed"]
WIDE = SLAB + 321


def some(n: int, d: int, seed: int = 0) -> Vector:
    return np.random.RandomState(seed).standard_normal((n, d)).astype(np.float32)


# -- the passes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*range(1, 13)])
def test_the_network_sorts_every_sequence_of_zeros_and_ones(n: int) -> None:
    """So it sorts everything (Knuth, TAOCP 5.3.4, theorem Z)."""
    part = np.array(list(itertools.product((0, 1), repeat=n)), dtype=np.float32).T.copy()
    for first, second in sorting_network(n):
        part[[first, second]] = np.minimum(part[first], part[second]), np.maximum(part[first], part[second])
    assert (np.diff(part, axis=0) >= 0).all()


@given(st.integers(1, 70), st.data())
def test_the_middle_is_that_of_a_sort(n: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, n - 1))
    last = data.draw(st.integers(first + 1, n))
    models = some(n, 5, seed=n)
    expected = np.sort(models, axis=0)[first:last].astype(np.float64).mean(axis=0)
    assert Models.of(models).middle(first, last) == pytest.approx(expected, abs=1e-6)


def test_distances_over_several_slabs() -> None:
    models = some(4, 2 * WIDE)
    wide = models.astype(np.float64)
    expected = ((wide[:, None] - wide) ** 2).sum(axis=2)
    assert Models.of(models).squares() == pytest.approx(expected, rel=1e-12)
    star = Models.of(models).squares(star=True)
    assert star[:, 3].tolist() == Models.of(models).squares()[:, 3].tolist()
    part = Models.of(models).span(5, WIDE)
    assert part.squares()[0, 1] == pytest.approx(((wide[0, 5:WIDE] - wide[1, 5:WIDE]) ** 2).sum(), rel=1e-12)


def test_the_spread_of_equal_values_is_exactly_none() -> None:
    assert spread(np.full(WIDE, 0.1, dtype=np.float32), 0, WIDE) == (np.float32(0.1), 0.0)
    values = some(1, WIDE)[0] + np.float32(1000)
    mean, variance = spread(values, 3, WIDE)
    assert mean == pytest.approx(values[3:].astype(np.float64).mean(), rel=1e-12)
    assert variance == pytest.approx(values[3:].astype(np.float64).var(), rel=1e-9)


def test_eigenvectors() -> None:
    matrix = robust.product(some(8, 8).astype(np.float64), some(8, 8).T.astype(np.float64))
    values, vectors = kernels.eigen(matrix, robust.SWEEPS)
    assert np.sort(values) == pytest.approx(np.linalg.eigvalsh(matrix), rel=1e-9)
    assert matrix @ vectors == pytest.approx(vectors * values, abs=1e-9)


# -- the definitions, written out -------------------------------------------------------------------------------------


def naive_krum(models: Vector, f: int) -> Vector:
    distances = np.linalg.norm(models[:, None] - models, axis=2) ** 2
    scores = np.sort(distances, axis=1)[:, : len(models) - f].sum(axis=1)
    mean: Vector = models[np.argsort(scores)[: len(models) - f]].mean(axis=0)
    return mean


def naive_mixing(models: Vector, f: int) -> Vector:
    distances = np.linalg.norm(models[:, None] - models, axis=2)
    return np.stack([models[np.argsort(row)[: len(models) - f]].mean(axis=0) for row in distances])


def naive_flag(models: Vector) -> Vector:
    """From the singular vectors of all d dimensions, as the paper writes it."""
    lengths = np.linalg.norm(models, axis=1)
    unit = (models / lengths[:, None]).T
    basis = np.linalg.svd(unit, full_matrices=False)[0][:, : (len(models) + 2) // 2]
    mean: Vector = (basis @ (basis.T @ unit)).mean(axis=1) * np.median(lengths)
    return mean


def naive_clipping(models: Vector, centre: Vector) -> Vector:
    differences = models - centre
    lengths = np.linalg.norm(differences, axis=1)
    mean: Vector = centre + (differences * np.minimum(1, np.median(lengths) / lengths)[:, None]).mean(axis=0)
    return mean


@pytest.mark.parametrize("n", [5, 20])
def test_each_rule_is_its_definition(n: int) -> None:
    f, models, centre = (n - 1) // 2, some(n, 300), some(1, 300, seed=9)[0]
    wide = models.astype(np.float64)
    mixed = naive_mixing(wide, f)
    for rows, mixing in ((wide, False), (mixed, True)):
        expected = {
            "median": np.median(rows, axis=0),
            "trimmed-mean": np.sort(rows, axis=0)[f : n - f].mean(axis=0),
            "multi-krum": naive_krum(rows, f),
            "centred-clipping": naive_clipping(rows, centre),
            "flag": naive_flag(rows - centre) + centre,
        }
        for rule, value in expected.items():
            assert by_rule(Models.of(models), rule, f, mixing, centre) == pytest.approx(value, abs=1e-5), rule


def test_no_point_is_better_than_the_geometric_median() -> None:
    models = some(9, 30)
    best = by_rule(Models.of(models), "geometric-median", 4)

    def cost(point: Vector) -> float:
        return float(np.linalg.norm(models - point, axis=1).sum())

    draw = np.random.RandomState(1)
    others = [best + 0.01 * draw.standard_normal(30) for _ in range(50)]
    assert cost(best) <= min(map(cost, [*others, *models, models.mean(axis=0)]))


def test_clipping_by_a_given_radius_in_several_steps() -> None:
    models, point = some(6, 40).astype(np.float64), np.zeros(40)
    for _ in range(3):
        differences = models - point
        lengths = np.linalg.norm(differences, axis=1)
        point = point + (differences * np.minimum(1, 2.0 / lengths)[:, None]).mean(axis=0)
    around = Models.of(models.astype(np.float32)).around(None)
    found = around.combined(robust.centred_clipping(around.squares(), radius=2.0, steps=3))
    assert found == pytest.approx(point, abs=1e-6)


# -- liars ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [False, True], ids=["", "mixing"])
@pytest.mark.parametrize("rule", STANDING)
@pytest.mark.parametrize("lie", [-100.0, 1e9])
def test_nearly_half_may_lie(rule: str, lie: float, mixing: bool) -> None:
    honest = 1 + 0.1 * some(6, 50)
    models = np.concatenate([np.full((5, 50), lie, dtype=np.float32), honest.astype(np.float32)])
    found = by_rule(Models.of(models), rule, 5, mixing, np.zeros(50, dtype=np.float32))
    # Flag and clipping bound what the liars' five votes of eleven add, the others leave them out.
    assert np.abs(found - 1).max() < (1.1 if rule in ("flag", "centred-clipping") else 0.4)


@pytest.mark.parametrize("rule", STANDING)
def test_models_that_are_all_the_same_stay_what_they_are(rule: str) -> None:
    model = some(1, 100)[0]
    for parent in (some(1, 100, seed=1)[0], model):
        found = by_rule(Models.of([model] * 5), rule, 2, True, parent)
        assert found == pytest.approx(model, abs=2e-7)


def test_the_median_of_models_most_of_which_are_one() -> None:
    models = some(5, 10)
    models[1] = models[2] = models[0]
    assert by_rule(Models.of(models), "geometric-median", 2) == pytest.approx(models[0], abs=1e-6)


# -- the same bits ----------------------------------------------------------------------------------------------------


def test_golden() -> None:
    assert HERE["digests"]() == GOLDEN


@pytest.mark.parametrize("rule", STANDING)
def test_threads_change_no_bit(rule: str) -> None:
    rows, parent = fixed(5, 3 * SLAB + 5), fixed(1, 3 * SLAB + 5)[0]
    one, three = (by_rule(Models.of(rows, threads), rule, 2, True, parent) for threads in (1, 3))
    assert one.tobytes() == three.tobytes()


@pytest.mark.skipif(not COMPILES, reason="without numba nothing is compiled")
def test_the_interpreter_finds_the_same_bits() -> None:
    part = some(5, 70)
    for star in (False, True):
        plain = kernels.squares.py_func(part, star)
        assert plain.tobytes() == kernels.squares(part, star).tobytes()
    assert kernels.moments.py_func(part[0], 0.1) == kernels.moments(part[0], 0.1)
    for function in (kernels.middle, kernels.middle.py_func):
        out = np.empty(70, dtype=np.float32)
        function(part.copy(), sorting_network(5), 1, 4, out)
        assert out.tobytes() == Models.of(part).middle(1, 4).tobytes()
    plain_values, plain_vectors = kernels.eigen.py_func(kernels.squares(part, False), 3)
    values, vectors = kernels.eigen(kernels.squares(part, False), 3)
    assert plain_values.tobytes() + plain_vectors.tobytes() == values.tobytes() + vectors.tobytes()


@pytest.mark.skipif(not COMPILES, reason="without numba nothing is compiled for any CPU")
def test_the_oldest_cpu_finds_the_same_bits(tmp_path: Path) -> None:
    """Compiled anew without fused multiply-add or wide vectors."""
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(BITS)],
        env={**os.environ, **plain, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == GOLDEN
