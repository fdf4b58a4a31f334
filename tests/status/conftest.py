"""Reports for the tests of their readers: one with something in every field, one that knows nothing yet."""

from __future__ import annotations

import msgspec
import pytest

from gossipnode.status.report import (
    ChainStatus,
    Committee,
    GossipStatus,
    Learning,
    LoopLag,
    Neighbour,
    NodeStatus,
    OffenceStatus,
    PeerStatus,
    ProgressStatus,
    RoundStatus,
    RunStatus,
    Status,
    StoreStatus,
    TrafficStatus,
    ViewStatus,
)

ME, ALICE, MALLORY = (f"12D3KooW{name:x>44}" for name in ("me", "alice", "mallory"))


def a_round(number: int) -> RoundStatus:
    return RoundStatus(
        round=number, trainers=[ME, ALICE], aggregators=[ALICE], digest="cd" * 32, seconds=0.9, accuracy=number / 100
    )


@pytest.fixture
def full_report() -> Status:
    return Status(
        node=NodeStatus(peer=ME, version="0.1.0", roles=["trainer"], joined=True, uptime_s=61.5, loop_lag=LoopLag()),
        run=RunStatus(
            run_id="ab" * 32, name="demo", protocol="modest", task="mnist", rounds=0, manifest={"name": "demo"}
        ),
        progress=ProgressStatus(
            round=31,
            state="training",
            head="cd" * 32,
            committee=Committee(trainers=[ME], aggregators=[ALICE]),
            last_round_s=0.9,
            learning=Learning(loss=0.25, accuracy=0.9634, samples=100, evaluated_round=30),
        ),
        peers=[
            PeerStatus(peer=ALICE, linked=True, last_active_round=30, roles=["trainer"], eligible=True, rtt_ms=1.25),
            PeerStatus(peer=MALLORY, linked=False, last_active_round=3, standing="quarantined"),
        ],
        view=ViewStatus(members=3, candidates=2),
        traffic=TrafficStatus(wire_sent=1_500_000, wire_received=2_500_000, gossip_dropped=1),
        store=StoreStatus(bytes=1000, blobs=2, max_bytes=10_000, checkpoint_round=30),
        offences=[OffenceStatus(peer=MALLORY, kind="flood", round=3, detail="[bold]<script>alert(1)</script>")],
        offence_counts={"flood": 7},
        history=[a_round(number) for number in range(1, 31)],
        warnings=["one peer floods"],
    )


@pytest.fixture
def chain_report(full_report: Status) -> Status:
    """Of a one-byte run."""
    chain = ChainStatus(
        height=100,
        certified_height=64,
        final=True,
        members=8,
        is_member=True,
        dormant=False,
        expelled=False,
        scalars_sent=1600,
        bytes_sent=27_000,
        bytes_per_scalar=16.875,
        wire_per_scalar=230.5,
        reorganisations=1,
        dropped_branch="the branch up to height 40 was left for another, then at height 41",
    )
    node = msgspec.structs.replace(full_report.node, epsilon=1.25)
    return msgspec.structs.replace(full_report, chain=chain, node=node)


@pytest.fixture
def gossip_report(full_report: Status) -> Status:
    """Of a gossip run, with a neighbour that is slow."""
    slow = Neighbour(peer=MALLORY, age=9, behind=21, seconds_per_training=4.5, heard_s=2.0, slow=True)
    gossip = GossipStatus(
        age=30,
        median_age=30,
        seconds_per_training=1.0,
        merges=28,
        models_merged=120,
        models_pulled=100,
        models_refused=1,
        models_waiting=2,
        caught_up=1,
        announced_every_s=0.1,
        neighbours=[slow],
    )
    return msgspec.structs.replace(full_report, gossip=gossip)


@pytest.fixture
def newborn_report() -> Status:
    """A node that has only just started: nothing is known yet."""
    return Status(node=NodeStatus(peer=ME))
