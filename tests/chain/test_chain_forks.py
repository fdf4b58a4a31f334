"""The tip that is kept up to date vote by vote is the one that counting everything anew gives."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.chain.forks import Forks, Node, subtree
from sampling.peers import PeerId
from verify.digest import Digest, digest_of

PEERS = frozenset(PeerId(name) for name in "abcdefg")


class Height:
    """All that the choice reads of a state."""

    def __init__(self, height: int) -> None:
        self.height = height


def node(parent: Node | None, number: int, rank: int = 0) -> Node:
    state: Any = Height(0 if parent is None else parent.height + 1)
    made = Node(digest_of(bytes([number % 256, number // 256])), state, parent, None, ())
    made.rank, made.early = rank, False
    return made


def counted_anew(start: Node, votes: dict[PeerId, dict[int, Node]], banned: set[PeerId]) -> Node:
    latest = [max(said.items())[1] for peer, said in votes.items() if peer in PEERS - banned]
    tip = start
    while tip.children:
        weights = [sum(vote in subtree(child) for vote in latest) for child in tip.children]
        ready = [
            (weight, -child.rank, bytes(255 - byte for byte in child.digest), child)
            for child, weight in zip(tip.children, weights, strict=True)
            if not child.early or 3 * weight > len(PEERS)
        ]
        if not ready:
            break
        tip = max(ready, key=lambda each: each[:3])[3]
    return tip


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_vote_by_vote_and_anew_agree(seed: int) -> None:
    rng = random.Random(seed)
    root = start = node(None, 0)
    forks, nodes = Forks(root, PEERS), [root]
    votes: dict[PeerId, dict[int, Node]] = {}
    banned: set[PeerId] = set()
    for number in range(1, 60):
        act = rng.random()
        if act < 0.45:
            fresh = node(rng.choice(nodes[-6:]), number, rng.choice([0, 0, 1]))
            fresh.early = rng.random() < 0.3
            nodes.append(fresh)
            forks.add(fresh)
        elif act < 0.85:
            peer, voted = PeerId(rng.choice("abcdefgh")), rng.choice(nodes)
            if voted in subtree(root):
                height = rng.randrange(200)
                if height not in votes.setdefault(peer, {}):
                    votes[peer][height] = voted
                    forks.vote(peer, height, voted)
        elif act < 0.92:
            ripe = rng.choice(nodes)
            ripe.live and forks.ripen(ripe)
        elif act < 0.94:
            peer = PeerId(rng.choice("abcdefgh"))
            banned.add(peer)
            forks.ban(peer)
        elif forks.tip.parent is not None:
            start = forks.tip.parent
            forks.start(start)
        live = {peer: said for peer, said in votes.items() if said}
        assert forks.tip is counted_anew(start, live, banned)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32))
def test_a_new_root_is_as_if_it_had_been_the_root_from_the_start(seed: int) -> None:
    rng = random.Random(seed)
    root = node(None, 0)
    forks, nodes = Forks(root, PEERS), [root]
    for number in range(1, 30):
        nodes.append(node(rng.choice(nodes[-4:]), number))
        forks.add(nodes[-1])
    votes: dict[PeerId, dict[int, Node]] = {}
    for height in range(40):
        peer, voted = PeerId(rng.choice("abcdefg")), rng.choice(nodes)
        votes.setdefault(peer, {})[height] = voted
        forks.vote(peer, height, voted)
    fresh = rng.choice([each for each in nodes if each.children])
    forks.reroot(fresh, PEERS)
    inside = set(subtree(fresh))
    kept = {peer: {h: v for h, v in said.items() if v in inside} for peer, said in votes.items()}
    assert forks.tip is counted_anew(fresh, {peer: said for peer, said in kept.items() if said}, set())
    assert all(each.live == (each in inside) for each in nodes)


def test_who_is_caught_signing_twice_weighs_nothing() -> None:
    root = node(None, 0)
    one, other = node(root, 1), node(root, 2, rank=1)
    forks = Forks(root, PEERS)
    forks.add(one)
    forks.add(other)
    forks.vote(PeerId("a"), 2, other)
    assert forks.tip is other
    forks.ban(PeerId("a"))
    assert forks.tip is one  # the lower rank


def test_of_two_alike_the_lower_digest_wins() -> None:
    root = node(None, 0)
    children = [node(root, number) for number in range(1, 6)]
    forks = Forks(root, PEERS)
    for child in children:
        forks.add(child)
    assert forks.tip.digest == min(child.digest for child in children)


@pytest.mark.parametrize(("voters", "followed"), [(2, False), (3, True)])
def test_an_early_block_is_followed_when_more_than_a_third_voted_for_it(voters: int, followed: bool) -> None:
    root = node(None, 0)
    early = node(root, 1, rank=5)
    early.early = True
    forks = Forks(root, PEERS)
    forks.add(early)
    for peer in sorted(PEERS)[:voters]:
        forks.vote(peer, 2, early)
    assert (forks.tip is early) is followed
    forks.ripen(early)
    assert forks.tip is early


def test_a_digest_is_only_a_last_resort() -> None:
    root = node(None, 0)
    high, low = node(root, 1, rank=0), node(root, 2, rank=1)
    high.digest, low.digest = Digest(b"\xff" * 32), Digest(b"\0" * 32)
    forks = Forks(root, PEERS)
    forks.add(low)
    forks.add(high)
    assert forks.tip is high
