"""The worker process: it owns torch, the operator's task and the data, and answers calls until its pipe ends.

Three threads. The reader takes frames, so an interrupt is seen while a model trains, and ends the process the moment
the daemon is gone, however it died. The main thread does what needs the model; a third what needs only blobs.
Invariant: only frames are ever written to the reply pipe; what the task prints goes to stderr, which the daemon logs.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from gossipnode.blobfiles import write_blob
from gossipnode.compute import calls
from gossipnode.compute.calls import Answer, Ask, Call, Interrupt, Reply
from gossipnode.errors import OperatorError
from gossipnode.files import write_all, write_whole
from gossipnode.learn.names import last_line, task_source
from protocols.blobs import StoreFull
from protocols.learner import LearnerError
from verify.digest import Digest, digest_of, short

if TYPE_CHECKING:  # torch takes seconds to import: the pipe is watched meanwhile
    from gossipnode.compute.stepping import Stepping
    from gossipnode.learn.config import LearnerConfig
    from gossipnode.learn.engine import Engine
    from gossipnode.learn.task import Data

NICENESS = 5  # of training, on Linux of its thread alone: the daemon, and merging, go first on the same cores
OOM_SCORE = 500  # of 1000: if memory runs out, the kernel kills this process, which can be started again, first
Outcome = tuple[Answer, bytes]  # and the digest of what was stored, or b""


class Lane:
    """Calls done one after another by one thread. Only the reader thread calls `put` and `interrupt`."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._newest = -1  # the daemon has at most one call in a lane
        self._interrupted = threading.Event()

    def put(self, call: Call) -> None:
        self._newest = call.number
        self._interrupted.clear()
        self._calls.put(call)

    def interrupt(self, number: int) -> None:
        if number == self._newest:
            self._interrupted.set()

    def interrupted(self) -> bool:
        return self._interrupted.is_set()

    def serve(self, bench: Bench, reply: Callable[[Reply], None]) -> None:
        while True:
            call = self._calls.get()
            assert not isinstance(call.ask, Interrupt)
            answer, stored = _answered(bench, call.ask, self.interrupted)
            reply(Reply(call.number, answer, stored))


class Bench:
    """Engine, data and store of this worker, once Start has come."""

    engine: Engine
    data: Data
    blobs: Path
    stepping: Stepping

    def do(self, ask: Ask, stop: Callable[[], bool]) -> Outcome:
        """Raises whatever goes wrong."""
        if isinstance(ask, calls.StepAsk):
            return self.stepping.do(ask, stop)
        match ask:
            case calls.Start(config):
                return self._start(config), b""
            case calls.Initial(seed):
                return calls.Done(), self.store(self.engine.initial(seed))
            case calls.Train(parent, seed):
                return self._train(parent, self.data, seed, stop)
            case calls.Replay(parent, seed, shard, samples):
                return self._train(parent, self.engine.others(shard, samples), seed, stop)
            case calls.Evaluate(model):
                metrics = self.engine.evaluate(self.read(model), self.data)
                return calls.Scored(metrics, len(self.data.test[0]), model), b""
            case calls.Infer(model, question):
                theta0 = self.stepping.theta0() if self.engine.config.rules is not None else None
                return calls.Inferred(self.engine.answer(self.read(model), question, theta0)), b""
            case calls.Export(model, path):
                self.export(self.engine.exported(self.read(model)), path)
                return calls.Done(), b""
            case calls.Merge(models, weights, parent):
                blobs, centre = [self.read(model) for model in models], self.read(parent) if parent else None
                return calls.Done(), self.store(self.engine.merge(blobs, weights, centre))
            case calls.Integrate(models):
                blobs = [self.read(model) for model in models]
                return calls.Done(), self.store(self.engine.integrate(blobs, self.data))
            case calls.Check(model):
                return calls.Checked(self.engine.check(self.read(model))), b""
            case calls.Sketch(model, parent, seed):
                before = self.read(parent) if parent else None
                return calls.Sketched(bytes(self.engine.signature(self.read(model), before, seed))), b""

    def _start(self, config: LearnerConfig) -> calls.Ready:
        source = task_source(config.task)  # first: a misspelt name should not take a second to be refused
        import torch

        from gossipnode.compute.stepping import Stepping
        from gossipnode.learn.engine import Engine

        torch.set_num_threads(config.threads)
        self.engine = Engine(config)
        self.data = self.engine.data(config.shard)
        self.blobs = Path(config.store) / "blobs"
        self.stepping = Stepping(self)
        template = self.engine.template
        os.nice(NICENESS)
        samples, spent = len(self.data.rows), self.stepping.spent()
        return calls.Ready(template.parameters, template.size, samples, source, spent, self.engine.sum_bytes)

    def _train(self, parent: bytes, data: Data, seed: int, stop: Callable[[], bool]) -> Outcome:
        began = time.monotonic()
        update = self.engine.train(self.read(parent), data, seed=seed, stop=stop)
        stored = self.store(update.blob)
        return calls.Improved(update.samples, update.steps, update.loss, time.monotonic() - began), stored

    def export(self, model: bytes, path: str) -> None:
        try:
            write_whole(Path(path), model)
        except OSError as error:
            raise OperatorError(f"cannot write {path}: {error.strerror}") from error

    def read(self, digest: bytes) -> memoryview:
        """A blob, mapped and not copied, its digest checked."""
        path = self.blobs / digest.hex()
        try:
            with path.open("rb") as file:
                blob = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise LearnerError(f"model {short(digest)} cannot be read from the store: {last_line(error)}") from error
        if digest_of(blob) != digest:
            raise LearnerError(f"model {short(digest)} is damaged on disk: {path}")
        return blob

    def store(self, blob: bytes) -> Digest:
        try:
            return write_blob(self.blobs, blob)
        except OSError as error:
            raise StoreFull(f"cannot write a model of {len(blob)} bytes to {self.blobs}: {error.strerror}") from error


def _answered(bench: Bench, ask: Ask, stop: Callable[[], bool]) -> Outcome:
    try:
        return bench.do(ask, stop)
    except Exception as error:  # whatever it is, the daemon gets one line and the worker lives on
        return _failed(ask, error), b""


def _failed(ask: Ask, error: Exception) -> calls.Failed:
    kind = next((base.__name__ for base in type(error).__mro__ if base.__name__ in calls.FAILURES), None)
    if kind is None or not isinstance(error.__cause__, OSError | None):
        traceback.print_exception(error)  # for the log: where in the operator's task it happened
    if kind is None:
        return calls.Failed("LearnerError", f"the worker failed in {type(ask).__name__.lower()}: {last_line(error)}")
    return calls.Failed(kind, str(error))


def _read_calls(source: BinaryIO, model: Lane, blobs: Lane) -> None:
    """Until the daemon closes the pipe, or dies: then this process ends at once, whatever it is doing."""
    try:
        decoder = msgspec.msgpack.Decoder(Call)
        while prefix := source.read(calls.PREFIX_BYTES):
            call = decoder.decode(source.read(int.from_bytes(prefix, "little")))
            if isinstance(call.ask, Interrupt):
                model.interrupt(call.number)
                blobs.interrupt(call.number)
            else:
                (blobs if isinstance(call.ask, calls.BlobAsk) else model).put(call)
    finally:
        os._exit(0)


def _claim_pipes() -> tuple[BinaryIO, int]:
    """Take the pipes to the daemon away from the numbers that the task's own input and output use."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def _outlived_by_the_daemon() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the daemon decides, and its pipe ends us
        signal.signal(ignored, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))  # only Linux has it


def main() -> None:
    source, sink = _claim_pipes()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a TextIOWrapper
    _outlived_by_the_daemon()
    model, blobs, bench = Lane(), Lane(), Bench()
    writing = threading.Lock()

    def reply(message: Reply) -> None:
        with writing, contextlib.suppress(BrokenPipeError):  # the reader sees the daemon's end too, and ends us
            write_all(sink, calls.framed(message))

    threading.Thread(target=_read_calls, args=(source, model, blobs), daemon=True).start()
    threading.Thread(target=blobs.serve, args=(bench, reply), daemon=True).start()
    model.serve(bench, reply)


if __name__ == "__main__":
    main()
