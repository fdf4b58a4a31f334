"""`gossipnode audit --replay`: the claimed work of a certificate, done again on this machine.

Imports torch; the models come from the store of a home that still has them. Invariant: what is compared is what the
auditors signed, under their own seeds, with the tolerance of the manifest.
"""

from __future__ import annotations

from gossipnode.certificates import Checked
from gossipnode.errors import OperatorError
from gossipnode.home import Home
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.engine import Engine
from protocols.claiming import shard_of
from protocols.collection import weights
from protocols.evidence import Case
from protocols.learner import LearnerError, Unfit
from protocols.manifest import Manifest
from protocols.merging import CENTRED, settled
from protocols.messages import Input
from verify.claims import training_seed
from verify.digest import digest_of, short
from verify.lsh import Signature, Tolerance, agrees


def work_again(found: Checked, case: Case, run: bytes, manifest: Manifest, home: Home) -> None:
    """Adds to what was found. Raises OperatorError."""
    engine = Engine(LearnerConfig.of(manifest))
    try:
        if case.made is None:
            _merge(found, engine, case, home)
        else:
            _train(found, engine, case, case.made, run, manifest, home)
    except (Unfit, LearnerError) as error:
        found.require(False, "", f"the work cannot be done here: {error}")


def _merge(found: Checked, engine: Engine, case: Case, home: Home) -> None:
    inputs = case.aggregate.inputs
    centred = settled(engine.config.merging).rule in CENTRED
    parent = _blob(home, case.aggregate.parent) if centred else None
    own = digest_of(engine.merge([_blob(home, each.model) for each in inputs], weights(inputs), parent))
    good = f"merged again: {short(own)}, not {short(case.model)}"
    found.require(own != case.model, good, f"merged again: {short(own)}, as claimed; the votes are wrong")


def _train(found: Checked, engine: Engine, case: Case, made: Input, run: bytes, manifest: Manifest, home: Home) -> None:
    shard = shard_of(made.data)
    if shard is None:
        raise OperatorError("private data cannot be replayed")
    parent = _blob(home, case.aggregate.parent)
    seed = training_seed(run, case.round, case.aggregate.parent, made.trainer)
    own = engine.train(parent, engine.others(shard), seed=seed).blob
    found.say(f"trained again: {short(digest_of(own))}, claimed was {short(made.model)}")
    tolerance = Tolerance(manifest.audit.tolerance_bits, manifest.audit.tolerance_norm)
    for vote in (vote for vote in case.ballot if vote.own):
        same = agrees(engine.signature(own, parent, case.seed(vote.auditor)), Signature.of(vote.own), tolerance)
        whose = vote.auditor[-8:]
        found.require(same, f"the auditor …{whose} found the same", f"the auditor …{whose} signed another result")


def _blob(home: Home, model: bytes) -> bytes:
    path = home.blobs / model.hex()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"the model {short(model)} is not in {home.path}: replay in the home of a node that still has it"
        ) from error
    if digest_of(data) != model:
        raise OperatorError(f"{path} is damaged")
    return data
