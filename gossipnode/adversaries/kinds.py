"""Every kind of adversary by its name, as `--adversary KIND:COUNT` and the report have it.

A kind is a function from what its nodes share to the conduct of one node. Invariant: an unknown kind, or more hostile
nodes than there may be, is the operator's error before anything runs; the first node of a run is always honest.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Final

from gossipnode.adversaries import auditors, chain, grinding, lying, shirking, vectors
from gossipnode.adversaries.adaptive import adaptive
from gossipnode.adversaries.bent import Gang
from gossipnode.adversaries.long_range import long_range
from gossipnode.adversaries.private_branch import private_branch
from gossipnode.conduct import Conduct
from gossipnode.errors import OperatorError

Kind = Callable[[Gang], Conduct]

KINDS: Final[dict[str, Kind]] = {
    "sign-flip": vectors.sign_flip,
    "scaling": vectors.scaling,
    "noise": vectors.noise,
    "alie": vectors.alie,
    "inner-product": vectors.inner_product,
    "adaptive": adaptive,
    "label-flip": shirking.label_flip,
    "wrong-shard": shirking.wrong_shard,
    "lazy": shirking.lazy,
    "stale": shirking.stale,
    "free-rider": shirking.free_rider,
    "copycat": shirking.copycat,
    "garbage": lying.garbage,
    "equivocator": lying.equivocator,
    "false-aggregate": lying.false_aggregate,
    "false-answer": lying.false_answer,
    "lying-auditor": auditors.lying_auditor,
    "lazy-auditor": auditors.lazy_auditor,
    "colluding-auditor": auditors.colluding_auditor,
    "claim-grinder": grinding.claim_grinder,
    "beacon-grinder": grinding.beacon_grinder,
    "withholding": chain.withholding,
    "late-reveal": chain.late_reveal,
    "double-sign": chain.double_sign,
    "censor": chain.censor,
    "grinder": chain.grinder,
    "private-branch": private_branch,
    "long-range": long_range,
}
ROUNDS: Final = ("modest",)
CHAIN: Final = ("onebyte",)
ONLY: Final[dict[str, tuple[str, ...]]] = {  # protocols in which a kind makes sense, if not in all
    **dict.fromkeys(("copycat", "equivocator", "false-aggregate", "lazy-auditor"), ROUNDS),
    **dict.fromkeys(("adaptive", "claim-grinder", "beacon-grinder"), ROUNDS),
    **dict.fromkeys(("lying-auditor", "colluding-auditor"), ROUNDS + CHAIN),
    **dict.fromkeys(("withholding", "late-reveal", "double-sign", "censor", "grinder"), CHAIN),
    **dict.fromkeys(("private-branch", "long-range"), CHAIN),
}


def kind_of(name: str, source: str) -> Kind:
    """Raises OperatorError."""
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise OperatorError(f"{source}: no adversary is called {name!r}: {hint}there are {', '.join(KINDS)}")
    return KINDS[name]


def kinds_for(protocol: str) -> list[str]:
    """Those that make sense in it."""
    return [kind for kind in KINDS if protocol in ONLY.get(kind, (protocol,))]


def cast_of(asked: Sequence[str], nodes: int, protocol: str) -> tuple[str, ...]:
    """The kind of each hostile node, from several KIND:COUNT; they are the last nodes. Raises OperatorError."""
    kinds = tuple(kind for text in asked for kind in _several(text))
    if stray := [kind for kind in kinds if kind not in kinds_for(protocol)]:
        raise OperatorError(
            f"--adversary {stray[0]}: not in {protocol} runs, which have {', '.join(kinds_for(protocol))}"
        )
    if len(kinds) >= nodes:
        raise OperatorError(f"--adversary: {len(kinds)} of {nodes} nodes: at least the first node is honest")
    return kinds


def _several(text: str) -> tuple[str, ...]:
    name, _, count = text.partition(":")
    source = f"--adversary {text}"
    kind_of(name, source)
    if not (count.isdecimal() and int(count) > 0):
        raise OperatorError(f"{source}: expected KIND:COUNT, as in --adversary sign-flip:2")
    return (name,) * int(count)
