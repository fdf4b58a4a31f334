"""What one learner computes: blobs in, blobs out, synchronous. It knows no store, no process and no clock.

Inline learners and the worker process both run this, so what is simulated is what runs. Whatever goes wrong in the
operator's task becomes a LearnerError of one line; whatever is wrong with a blob, also that training from it gives
non-finite numbers, becomes Unfit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gossipnode.learn import sgd
from gossipnode.learn.bristle import integrated
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import Buffer, Template, Vector, decode, encode, opened
from gossipnode.learn.flat import Flat
from gossipnode.learn.kernels.accumulator import elements
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.merge import Shape, merged
from gossipnode.learn.models import Models
from gossipnode.learn.names import last_line
from gossipnode.learn.output_layer import OutputLayer, examples, f1_scores, familiar
from gossipnode.learn.questions import read_question
from gossipnode.learn.rules import Rules
from gossipnode.learn.shard import Shard, shard_named
from gossipnode.learn.spsa import Probed, Spsa
from gossipnode.learn.task import Batch, Data, TaskError, load_task
from protocols.learner import LearnerError, Unfit
from protocols.merging import OWN
from verify.lsh import Signature
from verify.simhash import NOTHING
from verify.simhash import signature as signature_of

REMEDY = "a lower training.lr may help"


@dataclass(frozen=True, slots=True)
class Update:
    """What local training made of a model."""

    blob: bytes
    samples: int
    steps: int
    loss: float


def never() -> bool:
    return False


class Engine:
    """Owns one model, which every call loads anew: calls do not depend on each other. Not to be shared by threads.

    `merge`, `check` and `signature` leave the model alone and may run beside the other calls. An Spsa made here uses
    the same model: what depends on its being at theta goes through `probe` and `score`.
    """

    def __init__(self, config: LearnerConfig) -> None:
        """Imports the task and builds its model. Raises TaskError, LearnerError."""
        self.config = config
        self.device = device_named(config.device)
        self.task = load_task(config.task)
        self.flat = self._build()
        self.template = Template(self.flat.layout, config.encoding)
        self._layer = OutputLayer.of(self.template)
        if config.merging.rule in OWN and self._layer is None:
            raise TaskError(
                f"merging.rule: {config.merging.rule} needs a task that trains nothing but its output layer, which"
                f" {config.task!r} does not; choose another rule"
            )

    @property
    def sum_bytes(self) -> int:
        """Of A, as a snapshot: an int32 for each parameter that is trained."""
        return 4 * len(self.flat.learned)

    def data(self, shard: Shard) -> Data:
        """A node's examples, on the device. Raises TaskError, LearnerError."""
        with self._blame("data"):
            data = self.task.data(shard, self.config.data_path)
            if len(data.rows) and not 0 <= int(data.rows.min()) <= int(data.rows.max()) < len(data.pool[0]):
                raise TaskError(f"task {self.config.task!r}: data() names rows beyond its pool of {len(data.pool[0])}")
        return Data(self._moved(data.pool), data.rows.to(self.device), self._moved(data.test))

    def others(self, shard: str, samples: int | None = None) -> Data:
        """Another node's examples, by its description. Raises Unfit if there are none such, or not `samples` of them;
        LearnerError."""
        try:
            data = self.data(shard_named(shard))
        except TaskError as error:
            raise Unfit(str(error)) from error
        if samples not in (None, len(data.rows)):
            raise Unfit(f"there are {len(data.rows)} examples in that shard, not {samples}")
        return data

    def initial(self, seed: int | None = None) -> bytes:
        """theta0, of a model fresh from the seed, so that it does not matter what was trained before. With a `seed` of
        its own only what travels is other: what is frozen stays the run's."""
        try:
            return encode(self._build(seed).read(), self.template)
        except ValueError as error:
            raise LearnerError(f"task {self.config.task!r}: after model(), {error}") from error

    def train(self, parent: Buffer, data: Data, *, seed: int, stop: Callable[[], bool] = never) -> Update:
        """Raises Unfit, LearnerError, and Stopped if `stop()` says so between two batches."""
        if len(data.rows) == 0:
            raise LearnerError("this node has no examples to train on")
        self.flat.load(decode(parent, self.template))
        with self._blame("loss"):
            done = sgd.train(self.flat, self.task, data, self.config.training, seed=seed % 2**63, stop=stop)
        if not math.isfinite(done.loss):
            raise Unfit(f"task {self.config.task!r}: the loss became {done.loss}; {REMEDY}")
        try:
            blob = encode(self.flat.read(), self.template)
        except ValueError as error:
            raise Unfit(f"task {self.config.task!r}: after training, {error}; {REMEDY}") from error
        return Update(blob, len(data.rows), done.steps, done.loss)

    def merge(self, blobs: Sequence[Buffer], weights: Sequence[int], parent: Buffer | None = None) -> bytes:
        """Raises Unfit."""
        models = Models.of([opened(blob, self.template) for blob in blobs], self.config.threads)
        centre = None if parent is None else opened(parent, self.template)
        shape = Shape(self.template.lengths, len(self.flat.learned))
        return encode(merged(models, weights, self.config.merging, shape, centre), self.template)

    def integrate(self, blobs: Sequence[Buffer], data: Data) -> bytes:
        """By the rule that looks at a node's own examples; its own model first. Raises Unfit, LearnerError."""
        layer = self._layer
        assert layer is not None
        vectors = [decode(blob, self.template) for blob in blobs]
        labels = familiar(data, layer.classes)
        tried = examples(data, labels)
        f1 = np.stack([f1_scores(self._classes(vector, tried), tried[-1], labels) for vector in vectors])
        known = np.isin(np.arange(layer.classes), labels)
        rows = np.stack([layer.rows(vector) for vector in vectors])
        return encode(layer.vector(integrated(rows, f1, known)), self.template)

    def _classes(self, vector: Vector, batch: Batch) -> torch.Tensor:
        """That a model names, (T,): its outputs, whatever the task's metrics do to get them."""
        self.flat.load(vector)
        self.flat.model.eval()
        scores: list[torch.Tensor] = []
        hook = self.flat.model.register_forward_hook(lambda model, given, out: scores.append(out.argmax(1)))
        try:
            with self._blame("metrics"), torch.no_grad():
                self.task.metrics(self.flat.model, batch)
        finally:
            hook.remove()
        return torch.cat(scores)

    def check(self, blob: Buffer) -> float:
        """The largest absolute value. Raises Unfit."""
        vector = decode(blob, self.template)
        return max(float(vector.max()), -float(vector.min()))

    def signature(self, blob: Buffer, parent: Buffer | None, seed: bytes) -> Signature:
        """Of the update, or of the model if there is no parent. Raises Unfit."""
        before = NOTHING if parent is None else decode(parent, self.template)
        try:
            return signature_of(decode(blob, self.template), seed, before)
        except ValueError as error:
            raise Unfit(f"its update has no signature: {error}") from error

    def evaluate(self, blob: Buffer, data: Data) -> dict[str, float]:
        """The task's metrics, `loss` and `accuracy` among them. Raises Unfit, LearnerError."""
        self.flat.load(decode(blob, self.template))
        return self._metrics(data)

    def answer(self, blob: Buffer, question: bytes, theta0: Buffer | None = None) -> bytes:
        """As `Learner.answer` has it; with `theta0` the blob is A. Raises Unanswerable, Unfit, LearnerError."""
        inputs = self._moved(read_question(self.task, question))
        vector = decode(blob, self.template) if theta0 is None else self._summed(theta0, blob)
        self.flat.load(vector)
        self.flat.model.eval()
        with self._blame("question"), torch.no_grad():
            scores = self.flat.model(*inputs)
            if scores.dim() == 0 or len(scores) != len(inputs[0]):
                raise LearnerError(f"task {self.config.task!r}: the model must give a row of scores for each example")
            output: bytes = scores.float().cpu().numpy().astype("<f4").tobytes()
        return output

    def exported(self, blob: Buffer) -> bytes:
        """The model as float32 safetensors, whatever this run's encoding. Raises Unfit."""
        return encode(decode(blob, self.template), Template(self.flat.layout, "float32"))

    # -- one-byte training --------------------------------------------------------------------------------------------

    @property
    def rules(self) -> Rules:
        assert self.config.rules is not None, "the learner was not told that this is a one-byte run"
        return self.config.rules

    def spsa(self, theta0: Buffer, data: Data) -> Spsa:
        """With A at zero. Raises LearnerError."""
        try:
            vector = decode(theta0, self.template)
        except Unfit as error:
            raise LearnerError(f"theta0 is no model of task {self.config.task!r}: {error}") from error
        config = self.config
        return Spsa(self.flat, self.task, data, vector, self.rules, threads=config.threads, privacy=config.privacy)

    def probe(self, spsa: Spsa, seeds: Sequence[int], *, seed: int, stop: Callable[[], bool] = never) -> Probed:
        """Raises LearnerError, and Stopped if `stop()` says so between two probes."""
        spsa.settle()
        with self._blame("loss"):
            return spsa.probe(seeds, seed, stop=stop)

    def score(self, spsa: Spsa, data: Data) -> dict[str, float]:
        """As `evaluate`, where `spsa` is. Raises LearnerError."""
        spsa.settle()
        return self._metrics(data)

    def exported_sum(self, theta0: Buffer, snapshot: Buffer) -> bytes:
        """theta0 + quantum A as float32 safetensors, to the bit as in training. Raises Unfit."""
        return encode(self._summed(theta0, snapshot), Template(self.flat.layout, "float32"))

    def _summed(self, theta0: Buffer, snapshot: Buffer) -> Vector:
        """Raises Unfit."""
        start = decode(theta0, self.template)
        theta, learned = start.copy(), len(self.flat.learned)
        a = elements(snapshot, learned)
        Host().materialise(theta[:learned], start[:learned], a, quantum=self.rules.quantum)
        return theta

    def _metrics(self, data: Data) -> dict[str, float]:
        """Of the model as it is."""
        self.flat.model.eval()
        with self._blame("metrics"), torch.no_grad():
            metrics = {name: float(value) for name, value in self.task.metrics(self.flat.model, data.test).items()}
        if missing := {"loss", "accuracy"} - metrics.keys():
            raise LearnerError(f"task {self.config.task!r}: metrics() must report {' and '.join(sorted(missing))}")
        return metrics

    def _build(self, seed: int | None = None) -> Flat:
        with self._blame("model"):
            return Flat(self.task, self.config.seed if seed is None else seed, self.device)

    def _moved(self, batch: Batch) -> Batch:
        return tuple(tensor.to(self.device) for tensor in batch)

    @contextlib.contextmanager
    def _blame(self, method: str) -> Iterator[None]:
        """Name the task for whatever it raises; what is ours says all there is to say."""
        try:
            yield
        except (TaskError, LearnerError):
            raise
        except Exception as error:  # the operator's own code, which may raise anything
            raise LearnerError(f"task {self.config.task!r} failed in {method}(): {last_line(error)}") from error


def device_named(name: str) -> torch.device:
    """Raises TaskError."""
    available = torch.cuda.is_available() if name != "cpu" else False
    if name == "cuda" and not available:
        raise TaskError("device cuda: torch sees no GPU here; use --device cpu, or install a torch built for CUDA")
    return torch.device("cuda" if available else "cpu")
