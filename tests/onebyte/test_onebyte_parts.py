"""The small parts of one-byte training: its clock, its hash chains, its journal, its place in the manifest."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from protocols import wire
from protocols.amendments import amend, sign
from protocols.chain import messages as chain
from protocols.chain.checkpoints import Promises
from protocols.chain.draws import unwind
from protocols.chain.forks import Node
from protocols.chain.messages import Block, Changes, Entry, Head, genuine
from protocols.chain.rules import Rules
from protocols.chain.state import initial
from protocols.manifest import BadManifest, canonical, chain_rules, open_manifest, validated
from protocols.onebyte.journal import BadJournal, Departed, Mine, recall
from protocols.onebyte.links import Links
from protocols.onebyte.messages import NewEntry
from protocols.onebyte.pace import FIRST_STEP_S, STRETCH, Pace
from protocols.signatures import Signer
from verify.digest import digest_of

ME = Signer.from_seed(digest_of(b"me"))
RUN = digest_of(b"run")
RULES = Rules(founders=(ME.peer,), steps=1000)
EMPTY = digest_of(b"")


def node(parent: Node | None = None, rank: int = 0, name: bytes = b"x") -> Node:
    state = initial(RULES, RUN)
    head = Head(EMPTY, 1, rank, b"", (), EMPTY, EMPTY, ME.peer, b"")
    return Node(digest_of(name), state, parent, Block(head, Changes()), ())


class Heard:
    """In place of a chain: so many entries are held on each tip."""

    def __init__(self) -> None:
        self.count = 0

    def countable(self, parent: Node) -> list[Any]:
        return [SimpleNamespace(base=parent.digest)] * self.count


# -- pace ---------------------------------------------------------------------------------------------------------


def test_the_first_in_rank_is_ripe_at_once_and_later_ranks_wait_for_their_turn() -> None:
    pace = Pace(1.0, 60.0)
    root = node(name=b"root")
    assert pace.came(root, 0.0, live=True)
    assert pace.came(node(root, name=b"first"), 0.0, live=True)
    assert not pace.came(node(root, 2, b"third"), 1.0, live=True)
    ripe_s = (2 - 0.1) * FIRST_STEP_S
    assert pace.next_s() == pytest.approx(ripe_s)
    assert pace.due(ripe_s - 0.01) == []
    assert pace.due(ripe_s) == [digest_of(b"third")]
    assert pace.came(node(root, 2, b"late"), ripe_s, live=True)


def test_what_was_read_back_has_had_its_turn() -> None:
    pace = Pace(1.0, 60.0)
    assert pace.came(node(node(name=b"of old"), 7), 0.0, live=True)


def steps(pace: Pace, durations: list[float]) -> None:
    chain, now = Heard(), 0.0
    for index, duration in enumerate(durations):
        chain.count = 0
        pace.came(node(name=b"%d" % index), now, live=True)
        pace.look(chain, now)  # type: ignore[arg-type]  # as much of a chain as it looks at
        chain.count, now = 1, now + duration
        pace.look(chain, now)  # type: ignore[arg-type]  # likewise


def test_the_deadline_follows_the_steps() -> None:
    pace = Pace(0.5, 60.0)
    steps(pace, [0.1] * 20)
    assert pace.deadline_s == 0.5
    steps(pace, [8.0] * 60)
    assert 8.0 < pace.deadline_s < 20.0


def test_a_third_that_is_late_does_not_stretch_the_deadline() -> None:
    pace = Pace(0.5, 60.0)
    steps(pace, [1.0, 1.0, 30.0] * 100)
    assert pace.deadline_s < 3.0


def test_a_third_of_the_members_that_is_late_on_purpose_does_not_stretch_it_either() -> None:
    # Of 8 seats drawn from 16 members, five of them hostile, more than a third is hostile half of the time.
    pace, chain, draw, now = Pace(0.5, 600.0), Heard(), random.Random(1), 0.0
    seats = tuple(Signer.from_seed(digest_of(b"%d" % index)).peer for index in range(8))
    for index in range(100):
        tip = node(name=b"%d" % index)
        newest = msgspec.structs.replace(tip.state.recent[-1], seats=seats)
        tip.state = msgspec.structs.replace(tip.state, recent=(newest,))
        pace.came(tip, now, live=True)
        chain.count, now = sum(member >= 5 for member in draw.sample(range(16), 8)), now + 1.0
        pace.look(chain, now)  # type: ignore[arg-type]  # as much of a chain as it looks at
        chain.count, now = 8, now + 2 * pace.deadline_s
        pace.look(chain, now)  # type: ignore[arg-type]  # likewise
    assert pace.deadline_s < 6.0


def test_one_long_sleep_counts_for_no_more_than_a_few_deadlines() -> None:
    pace = Pace(0.5, 600.0)
    steps(pace, [1e6])
    assert pace.deadline_s <= 3 * STRETCH * FIRST_STEP_S


# -- links --------------------------------------------------------------------------------------------------------


def test_the_same_key_finds_the_same_hash_chain_again() -> None:
    one, other = Links(ME, RUN, RULES), Links(ME, RUN, RULES)
    assert one.join(7) == other.join(7)
    assert one.join(7).tip != one.join(8).tip
    assert one.join(7).tip != Links(ME, digest_of(b"another run"), RULES).join(7).tip


def test_links_unwind_to_what_was_committed_to_until_the_last_step() -> None:
    links = Links(ME, RUN, RULES)
    join, state = links.join(3), initial(RULES, RUN)
    member = msgspec.structs.replace(state.members[ME.peer], since=3, reveals=0, tip=join.tip)
    for height in (3, 998, 999):
        newest = msgspec.structs.replace(state.recent[-1], height=height)
        at = msgspec.structs.replace(state, members={ME.peer: member}, recent=(newest,))
        assert unwind(links.reveal(at), height + 1 - 3) == join.tip


# -- journal ------------------------------------------------------------------------------------------------------


def test_nothing_recalled_is_a_fresh_start() -> None:
    found = recall([], RUN, RULES, lambda peer: True)
    assert (found.promises, found.departed, found.chain.tip.height) == (Promises(), None, 0)


def test_the_last_promise_and_departure_count() -> None:
    records = [Mine(Promises(3, 2), ()), Departed(3), Mine(Promises(5, 2), ())]
    found = recall(map(msgspec.msgpack.encode, records), RUN, RULES, lambda peer: True)
    assert (found.promises, found.departed) == (Promises(5, 2), 3)


@pytest.mark.parametrize("record", [b"", b"nonsense", msgspec.msgpack.encode((1, ((0, 0, None)), None, b"x"))])
def test_a_record_of_something_else_is_one_line(record: bytes) -> None:
    with pytest.raises(BadJournal, match="not of this run"):
        recall([record], RUN, RULES, lambda peer: True)


# -- manifest -----------------------------------------------------------------------------------------------------

TABLES: dict[str, Any] = {
    "name": "run",
    "protocol": "onebyte",
    "task": "digits",
    "author": ME.peer,
    "theta0": "ab" * 32,
    "model_bytes": 1000,
}


def test_the_author_founds_a_run_that_names_nobody() -> None:
    manifest = validated(TABLES)
    assert chain_rules(manifest).founders == (ME.peer,)
    assert open_manifest(canonical(manifest)) == manifest


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ({"onebyte": {"window": 8, "epoch": 8}}, "onebyte.window"),
        ({"onebyte": {"schedule": [60_000], "steps": 10**6}}, "onebyte.schedule"),
        ({"onebyte": {"founders": ["nobody"]}}, "onebyte.founders"),
        ({"onebyte": {"steps": 0}}, "onebyte.steps"),
        ({"onebyte": {"stpes": 5}}, "onebyte"),
        (
            {
                "onebyte": {"founders": [ME.peer]},
                "admission": {"mode": "allow", "allow": [Signer.from_seed(bytes(32)).peer]},
            },
            "onebyte.founders",
        ),
    ],
)
def test_a_chain_that_cannot_be_is_refused_by_key(tables: dict[str, Any], fault: str) -> None:
    with pytest.raises(BadManifest, match=fault):
        validated(TABLES | tables)


def test_the_chain_of_other_protocols_is_not_looked_at() -> None:
    validated(TABLES | {"protocol": "modest", "onebyte": {"window": 8, "epoch": 8}})


def test_no_amendment_changes_what_blocks_mean() -> None:
    signed = sign(validated(TABLES), ME)
    with pytest.raises(BadManifest, match="onebyte"):
        amend(signed, {"onebyte.seats": 4}, ME)
    amend(signed, {"timing.round_floor_s": 2.0}, ME)


def test_an_entry_is_of_whoever_began_the_gossip() -> None:
    mine, other = (Signer.from_seed(digest_of(name)) for name in (b"mine", b"other"))
    entry = chain.sign(Entry(1, digest_of(b"base"), b"\x05", None, mine.peer, b""), mine, bytes(32))
    heard = wire.decode(wire.encode(NewEntry.of(entry)))
    assert isinstance(heard, NewEntry)
    assert heard.by(mine.peer) == entry
    assert genuine(heard.by(mine.peer), bytes(32))
    assert not genuine(heard.by(other.peer), bytes(32))
