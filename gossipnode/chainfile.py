"""The chain of a home, read from its journal without its node, and A replayed from it with the node's own kernels.

Works beside a running node, for it only reads. Every entry and block is checked as if it came from a peer. What the
replay is held against: the checkpoints that the members' votes name, and what this node had hashed itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from gossipnode.errors import OperatorError, reason
from gossipnode.home import Home
from gossipnode.journal import Journal
from gossipnode.learn.kernels.host import Host
from gossipnode.learn.kernels.signs import Accumulated
from gossipnode.node import Hashed, State, rules_of
from gossipnode.recordlog import read_records
from gossipnode.toml import load_manifest
from protocols.amendments import present
from protocols.chain.checkpoints import checkpoint_id, checkpoint_of
from protocols.chain.forks import Node
from protocols.chain.plan import step_of
from protocols.manifest import Manifest, chain_rules
from protocols.onebyte.journal import BadJournal, Recalled, recall
from verify.digest import DIGEST_BYTES, Digest, digest_of, short

_NO_MODEL: Final = Digest(bytes(DIGEST_BYTES))  # A of height 0, as `protocols.chain.archive` has it


@dataclass(frozen=True)
class ChainFile:
    home: Home
    manifest: Manifest
    run: bytes
    recalled: Recalled

    @property
    def tip(self) -> Node:
        return self.recalled.chain.tip

    @property
    def certified_height(self) -> int:
        return self.recalled.chain.certified.height

    def branch(self) -> list[Node]:
        """From where the journal begins up to the tip."""
        found, node = [self.tip], self.tip
        while node.parent is not None:
            node = node.parent
            found.append(node)
        return found[::-1]


def open_chain(home: Home) -> ChainFile:
    """Raises OperatorError."""
    if not home.manifest.exists():
        raise OperatorError(f"{home.path} holds no run: start a node there first, or name its home with --home")
    signed = load_manifest(home.manifest)
    manifest = present(signed)
    if manifest.protocol != "onebyte":
        raise OperatorError(f"the run of {home.path} is a {manifest.protocol} run: only one-byte runs have a chain")
    if not home.chain.exists():
        raise OperatorError(f"{home.path} holds no chain yet: wait for the node's first step")
    try:
        records = read_records(home.chain)
        recalled = recall(records, signed.run, chain_rules(manifest), rules_of(manifest).admits)
    except OSError as error:
        raise OperatorError(f"cannot read {home.chain}: {reason(error)}") from error
    except BadJournal as error:
        raise OperatorError(f"{home.chain}: {error}") from error
    return ChainFile(home, manifest, signed.run, recalled)


# -- the list ---------------------------------------------------------------------------------------------------------


def chain_lines(file: ChainFile) -> Iterator[str]:
    """A heading and a line for each block, oldest first."""
    first, *blocks = file.branch()
    where = f"the certified checkpoint of height {first.height}" if first.height else "theta0"
    yield f"blocks since {where}; certified up to height {file.certified_height}"
    yield f"{'height':>8} {'rank':>4}  {'proposer':<9}  {'counted':>7}  changes"
    for node in blocks:
        yield _line(node, file)


def _line(node: Node, file: ChainFile) -> str:
    assert node.block is not None
    head, changes = node.block.head, node.block.changes
    said = [f"join {join.peer[-8:]}" for join in changes.joins]
    said += [f"leave {leave.peer[-8:]}" for leave in changes.leaves]
    said += [f"here {here.peer[-8:]}" for here in changes.heres]
    said += [f"expelled {peer[-8:]}" for peer in sorted(node.state.expelled - _before(node))]
    if file.recalled.chain.rules.is_checkpoint(node.height):
        said.append("checkpoint, certified" if node.height <= file.certified_height else "checkpoint")
    return (
        f"{node.height:>8} {head.rank:>4}  {head.proposer[-8:]:<9}  {len(node.entries):>7}  {', '.join(said)}".rstrip()
    )


def _before(node: Node) -> frozenset[str]:
    return frozenset[str]() if node.parent is None else node.parent.state.expelled


# -- the replay -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """A at a height, and what it is held against. `holds` None: there is nothing to hold it against yet."""

    height: int
    model: Digest
    holds: bool | None
    words: str

    def line(self) -> str:
        return f"{self.height:>8}  A {short(self.model)}  {'MISMATCH: ' if self.holds is False else ''}{self.words}"


@dataclass(frozen=True)
class Replayed:
    claims: list[Claim]
    a: bytes  # at the tip

    @property
    def holds(self) -> bool:
        return all(claim.holds is not False for claim in self.claims)


def replay(file: ChainFile) -> Replayed:
    """From theta0 or the snapshot to the tip. Raises OperatorError if A of the snapshot is not to be had."""
    first, *blocks = file.branch()
    a, host, snapshot = _start(file), Host(), file.recalled.snapshot
    known = checkpoint_of(first.state, Digest(file.run), _NO_MODEL) if snapshot is None else snapshot.checkpoint
    previous, models, ids = checkpoint_id(known), dict[int, Digest](), dict[int, Digest]()
    own = _hashed(file)
    for node in blocks:
        step = step_of(node, file.recalled.chain.rules, file.run)
        if step.updates:
            seeds, coefficients = zip(*step.updates, strict=True)
            host.add(a, np.array(seeds, dtype=np.uint64), np.array(coefficients, dtype=np.int64))
        if step.checkpoint:
            models[node.height] = digest_of(a.tobytes())
            previous = ids[node.height] = checkpoint_id(checkpoint_of(node.state, previous, models[node.height]))
        if own is not None and own.block == node.digest:
            models.setdefault(node.height, digest_of(a.tobytes()))
    claims = [_snapshot_claim(snapshot.checkpoint.height, a=_start(file))] if snapshot is not None else []
    claims += [_claim(file, height, model, ids, own) for height, model in models.items()]
    if file.tip.height not in models:
        claims.append(Claim(file.tip.height, digest_of(a.tobytes()), None, "the tip; this node had not hashed it"))
    return Replayed(claims, a.tobytes())


def _start(file: ChainFile) -> Accumulated:
    snapshot = file.recalled.snapshot
    if snapshot is None:
        return np.zeros(file.manifest.model_bytes // 4, dtype=np.int32)
    wanted = Digest(snapshot.checkpoint.model)
    path = file.home.blobs / wanted.hex()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"A of height {snapshot.checkpoint.height} cannot be read: {path}: {reason(error)}"
        ) from error
    if digest_of(data) != wanted:
        raise OperatorError(
            f"A of height {snapshot.checkpoint.height} is damaged: {path}; a running node fetches it anew"
        )
    return np.frombuffer(data, dtype="<i4").astype(np.int32)


def _snapshot_claim(height: int, a: Accumulated) -> Claim:
    return Claim(height, digest_of(a.tobytes()), True, "certified; here the journal begins")


def _hashed(file: ChainFile) -> Hashed | None:
    state = Journal(file.home.state, State).load()
    return None if state is None else state.hashed


def _claim(file: ChainFile, height: int, model: Digest, ids: dict[int, Digest], own: Hashed | None) -> Claim:
    """The votes come first: they are of more than two thirds of the members."""
    marks = {mark.height: mark for mark in file.tip.state.finality.marks if mark.justified and mark.agreed}
    tip = "the tip; " if height == file.tip.height else ""
    if height in marks and height in ids:
        holds = marks[height].agreed == ids[height]
        return Claim(height, model, holds, tip + ("as the members voted" if holds else "the members voted for another"))
    if own is not None and own.height == height:
        holds = own.model == model
        return Claim(
            height, model, holds, tip + ("as this node had hashed it" if holds else f"this node had {short(own.model)}")
        )
    above = [mark for mark in marks if mark > height and mark in ids]
    if above:
        holds = marks[above[0]].agreed == ids[above[0]]
        return Claim(height, model, holds, f"{tip}part of what was voted for at height {above[0]}")
    return Claim(height, model, None, tip + "not voted for yet")


def verify_chain(file: ChainFile) -> tuple[list[str], bool]:
    """What was found, a line each, and whether all of it holds."""
    first, replayed = file.branch()[0], replay(file)
    begins = f"the certified checkpoint of height {first.height}" if first.height else "theta0"
    blocks, scalars = (
        file.tip.height - first.height,
        sum(len(e.scalars) for node in file.branch() for e in node.entries),
    )
    told = [
        f"replayed {blocks} blocks with {scalars} scalars from {begins}",
        *(claim.line() for claim in replayed.claims),
    ]
    told.append("all of it holds" if replayed.holds else "it does not hold")
    return told, replayed.holds
