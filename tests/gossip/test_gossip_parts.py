"""The pure parts of gossip learning: whom to pull from, what waits, how much each counts, what the manifest may say."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from protocols.gossip.claims import own_seed
from protocols.gossip.inbox import Came, Inbox
from protocols.gossip.messages import Offer
from protocols.gossip.neighbours import FRESH_MOST_S, FRESH_S, KEPT, Neighbours
from protocols.gossip.rules import Rules
from protocols.gossip.weights import of_others, with_own
from protocols.manifest import BadManifest, validated
from protocols.signatures import Signer
from sampling.peers import PeerId, Round
from verify.digest import Digest, digest_of


def offer(number: int = 0, *, age: int = 1, samples: int = 10, train_ms: int = 1000) -> Offer:
    return Offer(Digest(digest_of(b"%d" % number)), Round(age), samples, train_ms)


def peer(number: int) -> PeerId:
    return PeerId(f"peer-{number:05}")


# -- neighbours -------------------------------------------------------------------------------------------------------


def test_they_are_bounded_and_whoever_announces_more_is_not_kept_more() -> None:
    kept: Counter[PeerId] = Counter()
    for salt in range(8):
        known = Neighbours(b"%d" % salt)
        for number in range(2 * KEPT):
            for _ in range(5 if number < KEPT else 1):  # the first half announces five times as often
                known.hear(peer(number), offer(), 1.0)
        assert len(known) == KEPT
        kept.update(known.fresh(1.0))
    loud = sum(kept[peer(number)] for number in range(KEPT))
    assert loud == pytest.approx(8 * KEPT / 2, rel=0.1)


def test_who_falls_silent_is_gone_and_makes_room() -> None:
    known = Neighbours(b"salt")
    for number in range(KEPT):
        known.hear(peer(number), offer(), 0.0)
    later = FRESH_S + 1
    assert known.fresh(later) == []
    known.hear(peer(KEPT), offer(), later)
    assert known.fresh(later) == [peer(KEPT)]
    assert len(known) == 1


def test_the_slow_are_waited_for_but_not_for_as_long_as_they_say() -> None:
    known = Neighbours(b"salt")
    known.hear(peer(1), offer(train_ms=60_000), 0.0)
    known.hear(peer(2), offer(train_ms=2**32), 0.0)
    assert known.fresh(200.0) == [peer(1), peer(2)]
    assert known.fresh(FRESH_MOST_S) == [peer(2)]
    assert known.fresh(FRESH_MOST_S + 1) == []


def test_a_model_heard_of_again_is_no_younger() -> None:
    known = Neighbours(b"salt")
    for now_s in (1.0, 2.0):
        known.hear(peer(1), offer(1), now_s)
    assert known.heard()[peer(1)].first_s == 1.0
    assert known.heard()[peer(1)].at_s == 2.0
    known.hear(peer(1), offer(2), 3.0)
    assert known.heard()[peer(1)].first_s == 3.0


def test_no_minority_sets_the_clock() -> None:
    known = Neighbours(b"salt")
    for number, age in enumerate((7, 8, 9, 2**40)):
        known.hear(peer(number), offer(age=age), 0.0)
    assert known.clock(Round(8)) == 8


# -- what waits -------------------------------------------------------------------------------------------------------


def test_one_of_each_origin_and_the_newest() -> None:
    inbox = Inbox(3, random.Random(1))
    inbox.put(Came(peer(1), offer(1)))
    inbox.tell(Came(peer(2), offer(2), b"x"))
    inbox.put(Came(peer(1), offer(3)))
    assert len(inbox) == 2
    assert peer(2) in inbox
    assert inbox.stored == [offer(3).model]
    assert [(each.origin, each.offer.model) for each in inbox.take()] == [
        (peer(1), offer(3).model),
        (peer(2), offer(2).model),
    ]
    assert inbox.take() == []


def test_of_those_told_each_origin_is_as_likely_to_stay() -> None:
    stayed: Counter[PeerId] = Counter()
    for seed in range(400):
        inbox = Inbox(4, random.Random(seed))
        for number in range(16):
            for _ in range(10 if number == 15 else 1):
                inbox.tell(Came(peer(number), offer(number), b"x"))
        assert inbox.full
        stayed.update(each.origin for each in inbox.take())
    assert all(count == pytest.approx(100, abs=35) for count in (stayed[peer(number)] for number in range(16)))


# -- weights ----------------------------------------------------------------------------------------------------------


def test_ones_own_model_has_the_share_beta() -> None:
    own, *others = with_own(0.5, 10, [10, 30])
    assert own == sum(others)
    own, *others = with_own(0.1, 10, [10, 30])
    assert own / (own + sum(others)) == pytest.approx(0.1, rel=1e-3)
    assert with_own(0.0, 20, [10, 30]) == [20, 10, 30]  # as one of them


def test_claims_are_capped_and_slow_nodes_weigh_more_with_fedfix() -> None:
    claims = [offer(samples=10**9), offer(samples=100), offer(samples=90)]
    assert of_others(claims, 110, Rules(), 1.0) == [1050, 100, 90]
    paces = [offer(train_ms=1000), offer(train_ms=4000)]
    assert of_others(paces, 10, Rules(weighting="fedfix"), 1.0) == [10, 40]
    assert of_others(paces, 10, Rules(), 1.0) == [10, 10]


def test_first_models_differ_by_peer_and_run() -> None:
    seeds = {own_seed(run, peer(number)) for run in (1, 2) for number in range(10)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**62 for seed in seeds)


# -- the manifest -----------------------------------------------------------------------------------------------------


def manifest(**tables: object) -> object:
    author = Signer.from_seed(bytes(32)).peer
    common = {"name": "run", "task": "digits", "protocol": "gossip", "author": author, "theta0": "0" * 64}
    return validated({**common, "model_bytes": 1000, **tables})


def test_a_gossip_run_can_be_asked_for() -> None:
    manifest(gossip={"init": "different", "beta": 0.25}, merging={"rule": "trimmed-mean", "byzantine": 4})


def test_more_liars_than_any_rule_stands_are_refused() -> None:
    with pytest.raises(BadManifest, match=r"merging\.byzantine"):
        manifest(gossip={"neighbours": 8}, merging={"rule": "trimmed-mean", "byzantine": 5})


def test_a_model_too_large_for_a_message_cannot_ride_in_one() -> None:
    with pytest.raises(BadManifest, match=r"gossip\.inline_bytes"):
        manifest(gossip={"inline_bytes": 65_536})
