"""What the tests of the chain share: members, and a quick way to grow a chain without any network."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from protocols.chain.checkpoints import Promises
from protocols.chain.draws import HashChain
from protocols.chain.forks import Node
from protocols.chain.messages import Block, Entry, Here, Join, Leave, sign
from protocols.chain.rules import Rules
from protocols.chain.tree import Chain
from protocols.chain.validity import Refusal
from protocols.signatures import Signer
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

RUN = digest_of(b"chain")
SIGNERS = tuple(Signer.from_seed(digest_of(b"member %d" % index)) for index in range(10))


@dataclass
class World:
    """Members who all see the same, and the one chain that holds all they say. `said` is the whole of it, in order."""

    run = RUN
    count: int = 4
    epoch: int = 8
    seats: int = 4
    probes: int = 1
    steps: int = 10_000
    said: list[Entry | Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        founders = tuple(signer.peer for signer in SIGNERS[: self.count])
        self.rules = Rules(
            founders=founders, steps=self.steps, probes=self.probes, seats=self.seats, epoch=self.epoch, window=3
        )
        self.signers = {signer.peer: signer for signer in SIGNERS}
        self.links = {signer.peer: HashChain(digest_of(signer.peer.encode()), 0, 512) for signer in SIGNERS}
        self.promises = {signer.peer: Promises() for signer in SIGNERS}
        self.chain = self.fresh()

    def fresh(self) -> Chain:
        return Chain(RUN, self.rules, lambda peer: True)

    def entry(self, peer: PeerId, base: Node, scalar: int = 1) -> Entry | None:
        """And journalled, and heard."""
        scalars = bytes([scalar] * self.probes)
        made = self.chain.enter(self.signers[peer], scalars, base, self.promises[peer])
        if made is None:
            return None
        entry, self.promises[peer] = made
        self.hear(entry)
        return entry

    def block(self, parent: Node, rank: int = 0) -> Block | None:
        peer = self.chain.proposers(parent)[rank]
        reveal = self.links[peer].reveal(parent.height + 1)
        made = self.chain.propose(self.signers[peer], reveal, self.promises[peer], parent)
        if made is None:
            return None
        block, self.promises[peer] = made
        self.hear(block)
        return block

    def hear(self, what: Entry | Block) -> None:
        refusal = self.tell(self.chain, what)
        assert refusal in (None, Refusal.KNOWN, Refusal.FULL)  # again, by who forgot that it had signed it
        if refusal is None:
            self.said.append(what)

    @staticmethod
    def tell(chain: Chain, what: Entry | Block) -> Refusal | None:
        """Hand it over as if all turns had come."""
        refusal = chain.hear_entry(what) if isinstance(what, Entry) else chain.hear_block(what)
        for node in chain.take_connected():
            chain.ripen(node.digest)
        return refusal

    @staticmethod
    def model_at(node: Node) -> Digest:
        """In place of A's digest: like it, a function of the branch."""
        return digest_of(b"A" + node.digest)

    def join(self, *peers: PeerId) -> None:
        for peer in peers:
            height = self.chain.tip.height
            join = Join(height, Digest(self.links[peer].reveal(height) or self.links[peer].tip), b"", peer, b"")
            assert self.chain.hear_change(sign(join, self.signers[peer], RUN)) is None

    def leave(self, peer: PeerId) -> None:
        leave = Leave(self.chain.tip.height, peer, b"")
        assert self.chain.hear_change(sign(leave, self.signers[peer], RUN)) is None

    def here(self, peer: PeerId) -> None:
        here = Here(self.chain.tip.height, peer, b"")
        assert self.chain.hear_change(sign(here, self.signers[peer], RUN)) is None

    def grow(self, blocks: int, *, without: Iterable[PeerId] = ()) -> Node:
        """Everybody enters on every tip, and the first that is there proposes."""
        absent = set(without)
        for _ in range(blocks):
            tip = self.chain.tip
            for peer in tip.state.seats:
                if peer not in absent:
                    self.entry(peer, tip)
            order = self.chain.proposers(tip)
            assert self.block(tip, next(rank for rank, peer in enumerate(order) if peer not in absent)) is not None
            if self.rules.is_checkpoint(self.chain.tip.height):
                self.chain.settle(self.chain.tip.digest, self.model_at(self.chain.tip))
        return self.chain.tip


@pytest.fixture(scope="session")
def worlds() -> type[World]:
    return World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def arena() -> ModuleType:
    """The toy network, which is a script as well."""
    spec = importlib.util.spec_from_file_location("chain_arena", Path(__file__).parent / "arena.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
