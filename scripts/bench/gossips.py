"""Whole nodes that gossip, the last of them liars, and a rule that merges. For tables of merging rules.

The liars are the adversaries of `gossipnode.adversaries`, at the strengths that their papers name: each knows its own
work only, which is what real ones would. Accuracy is the mean over the honest nodes' last models.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from bench.rounds import Setting
from gossipnode.simulated_log import logged
from gossipnode.simulation import Scenario, simulate
from protocols.merging import TRUSTING, Merging

LIES: Final = ("none", "sign-flip", "scaling", "alie", "inner-product", "label-flip")


def accuracy(setting: Setting, lie: str, seed: int, merging: Merging, fraction: float) -> float:
    """`fraction`: of a node's trainings after which it audits."""
    if merging.rule not in TRUSTING:
        merging = msgspec.structs.replace(merging, byzantine=setting.liars)
    tables = {
        "protocol": "gossip",
        "task": "digits",
        "seed": seed,
        "rounds": setting.rounds,
        "start_peers": setting.trainers,
        "training": {"lr": setting.lr},
        "merging": msgspec.structs.asdict(merging),
        "audit": {"fraction": fraction},
    }
    liars = () if lie == "none" else (lie,) * setting.liars
    scenario = Scenario(setting.trainers, seed, tables, setting.partition, adversaries=liars, curve=False)
    with logged(None):
        outcome = simulate(scenario)
    return outcome.report.accuracy.mean if outcome.finished else math.nan
