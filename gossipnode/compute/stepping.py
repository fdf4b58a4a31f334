"""One-byte training in the worker: A lives here, between the calls that move it. Imported with torch, once Start came.

Invariant: A is what the calls answered with Done have made of it. An addition that fails halfway leaves it lost, and
then every call fails until Restore.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.compute import calls
from gossipnode.learn.encoding import Buffer
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.spending import Spending
from gossipnode.learn.spsa import Spsa
from protocols.learner import LearnerError
from verify.digest import Digest, digest_of, short

if TYPE_CHECKING:
    from gossipnode.compute.worker import Bench, Outcome


class Stepping:
    """Uses engine, data and store of its bench."""

    def __init__(self, bench: Bench) -> None:
        """Raises LearnerError if the spent privacy cannot be read."""
        self._bench = bench
        self._staged: list[calls.Add] = []
        self._lost = False
        self._spending = _spending(bench)
        if bench.engine.config.rules is not None and bench.engine.device.type == "cpu":
            _warm()

    def spent(self) -> float | None:
        return None if self._spending is None else self._spending.epsilon()

    def do(self, ask: calls.StepAsk, stop: Callable[[], bool]) -> Outcome:
        """Raises whatever goes wrong."""
        if self._lost and not isinstance(ask, calls.Restore | calls.ExportSum):
            raise LearnerError("A was lost in an addition that failed: it must be restored")
        match ask:
            case calls.Probe():
                return self._probe(ask, stop), b""
            case calls.Reprobe():
                return self._reprobe(ask, stop), b""
            case calls.Add():
                self._add(ask)
                return calls.Done(), b""
            case calls.Sum(store):
                digest = self._bench.store(self._spsa.snapshot()) if store else self._spsa.digest()
                return calls.Summed(digest), digest if store else b""
            case calls.Restore(a):
                self._spsa.restore(self._blob(a))
                self._lost = False
                return calls.Done(), b""
            case calls.Score():
                return self._score(), b""
            case calls.ExportSum(a, path):
                self._bench.export(self._bench.engine.exported_sum(self.theta0(), self._blob(a)), path)
                return calls.Done(), b""

    @cached_property
    def _spsa(self) -> Spsa:
        """Made at the first call: other protocols need none."""
        return self._bench.engine.spsa(self.theta0(), self._bench.data)

    def _probe(self, ask: calls.Probe, stop: Callable[[], bool]) -> calls.Probed:
        began = time.monotonic()
        seeds = _numbers(ask.seeds, "<u8").tolist()
        done = self._bench.engine.probe(self._spsa, seeds, seed=ask.seed, stop=stop)
        if self._spending is not None:
            self._spending.count(len(seeds))
        return calls.Probed(done.scalars, done.loss, done.saturated, time.monotonic() - began, self.spent())

    def _reprobe(self, ask: calls.Reprobe, stop: Callable[[], bool]) -> calls.Probed:
        began, engine = time.monotonic(), self._bench.engine
        with self._spsa.lent(engine.others(ask.shard)):
            done = engine.probe(self._spsa, _numbers(ask.seeds, "<u8").tolist(), seed=ask.seed, stop=stop)
        return calls.Probed(done.scalars, done.loss, done.saturated, time.monotonic() - began, self.spent())

    def _add(self, ask: calls.Add) -> None:
        self._staged.append(ask)
        if ask.more:
            return
        staged, self._staged = self._staged, []
        seeds = _numbers(b"".join(each.seeds for each in staged), "<u8").astype(np.uint64)
        coefficients = _numbers(b"".join(each.coefficients for each in staged), "<i8").astype(np.int64)
        spsa, self._lost = self._spsa, True
        spsa.add(seeds, coefficients)
        self._lost = False

    def _score(self) -> calls.Scored:
        data = self._bench.data
        return calls.Scored(self._bench.engine.score(self._spsa, data), len(data.test[0]), self._spsa.digest())

    def _blob(self, a: bytes) -> Buffer:
        return self._bench.read(a) if a else bytes(4 * len(self._bench.engine.flat.learned))

    def theta0(self) -> Buffer:
        """That of the run, from the store, unless this machine makes the same. Raises LearnerError."""
        wanted = self._bench.engine.config.theta0
        made = self._bench.engine.initial()
        if not wanted or digest_of(made) == wanted:
            return made
        try:
            return self._bench.read(Digest(wanted))
        except LearnerError as error:
            raise LearnerError(
                f"this machine's theta0 is {short(digest_of(made))}, not the run's {short(wanted)}, and {error}"
            ) from error


def _spending(bench: Bench) -> Spending | None:
    config, examples = bench.engine.config, len(bench.data.rows)
    if config.rules is None or config.privacy is None or examples == 0:
        return None
    return Spending(bench.blobs.parent, config.privacy, config.rules.batch, examples)


def _warm() -> None:
    """Have each kernel compiled now, which takes seconds where no cache has it: a call cannot be stopped meanwhile."""
    a, floats = np.zeros(64, dtype=np.int32), np.zeros(64, dtype=np.float32)
    host = Host()
    for count in (1, 2):
        host.add(a, np.arange(count, dtype=np.uint64), np.ones(count, dtype=np.int64))
    host.perturb(floats.copy(), floats, a, quantum=1.0, seed=0, eps=1.0)
    host.materialise(floats.copy(), floats, a, quantum=1.0)


def _numbers(data: bytes, dtype: str) -> NDArray[Any]:
    return np.frombuffer(data, dtype=dtype)
