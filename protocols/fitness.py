"""Which models can be trained from, as far as this node can tell by trying.

A model may be finite, of the right names and shapes, and give everybody who trains from it a loss that is not. So may
broken data at one node, from any model. Invariant: a model is unfit here only if training from it gave non-finite
numbers and training from theta0 then did not; if that does too, the fault is our own, and the operator is told.
"""

from __future__ import annotations

from collections import OrderedDict

from protocols.blobs import StoreFull
from protocols.learner import Learner, LearnerError, Trained, Unfit
from sampling.peers import Round
from verify.digest import Digest

KEPT = 64  # verdicts, the newest: twice as many as aggregates that a retreat may go back to
SEED = 0  # of a trial: any will do


class Fitness:
    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._verdicts: OrderedDict[Digest, bool] = OrderedDict()
        self.own_fault: str | None = None  # this node cannot train from any model, and why

    async def train(self, parent: Digest, round: Round, *, seed: int) -> Trained:
        """As the learner does. Raises LearnerError, StoreFull; Unfit, of which `judge` finds out whose fault it is."""
        trained = await self._learner.train(parent, round, seed=seed)
        self.own_fault = None
        self._settle(parent, True)
        return trained

    def unfit(self, model: Digest) -> bool:
        """Judged so, and never to be believed again."""
        return self._verdicts.get(model) is False

    async def fit(self, model: Digest) -> bool:
        """Trains from it, unless it has been judged. True also if we cannot tell."""
        if model not in self._verdicts and (problem := await self._problem(model)) is not None:
            await self.judge(model, problem)
        return not self.unfit(model)

    async def judge(self, model: Digest, problem: str) -> None:
        """Training from it gave non-finite numbers: is it the model?"""
        ours = await self._problem(await self._learner.initial())
        if ours is None:
            self._settle(model, False)
        else:
            self.own_fault = f"whatever the model, so this node's own data are to be looked at: {problem}"

    async def _problem(self, model: Digest) -> str | None:
        try:
            await self.train(model, Round(0), seed=SEED)
        except Unfit as error:
            return str(error)
        except (LearnerError, StoreFull):  # says nothing of the model
            return None
        return None

    def _settle(self, model: Digest, fit: bool) -> None:
        self._verdicts[model] = fit
        self._verdicts.move_to_end(model)
        if len(self._verdicts) > KEPT:
            self._verdicts.popitem(last=False)
