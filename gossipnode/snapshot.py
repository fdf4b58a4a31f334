"""A node, as its operator sees it: fills `status.report`'s types from the node's parts. Reads only, computes little."""

from __future__ import annotations

import statistics

import msgspec
import trio

from gossipnode.node import Node
from gossipnode.status.report import (
    NEIGHBOURS_SHOWN,
    OFFENCES_SHOWN,
    AuditStatus,
    ChainStatus,
    Committee,
    GossipStatus,
    Neighbour,
    NodeStatus,
    OffenceStatus,
    PeerStatus,
    ProgressStatus,
    Repute,
    RunStatus,
    Status,
    StoreStatus,
    TrafficStatus,
    VerdictStatus,
    ViewStatus,
)
from protocols.gossip.conversation import Gossip, GossipFigures
from protocols.transport import Traffic
from sampling.peers import PeerId, Round

SLOW = 2.0  # times the median pace


def snapshot(node: Node, process: NodeStatus, store: StoreStatus) -> Status:
    """`process` and `store` come from whoever runs the node; what else there is to know, it knows itself."""
    return Status(
        node=process,
        run=run_status(node),
        progress=progress(node),
        chain=chain_status(node),
        audits=audit_status(node),
        gossip=gossip_status(node),
        peers=peers(node),
        view=view_status(node),
        traffic=traffic_status(node.parts.desk.transport.traffic()),
        store=store,
        offences=offences(node),
        offence_counts={str(kind): count for kind, count in node.standing.summary().by_kind.items()},
        history=list(node.history),
        warnings=warnings(node),
    )


def run_status(node: Node) -> RunStatus:
    run = node.run_info
    return RunStatus(
        run_id=run.run_id.hex(),
        name=run.manifest.name,
        protocol=run.manifest.protocol,
        task=run.manifest.task,
        rounds=run.manifest.onebyte.steps if run.manifest.protocol == "onebyte" else run.manifest.rounds,
        manifest=msgspec.to_builtins(run.manifest),
    )


def progress(node: Node) -> ProgressStatus:
    protocol, committee = node.protocol, node.protocol.committee
    return ProgressStatus(
        round=protocol.round,
        state=protocol.state,
        head=protocol.model.hex() if protocol.model else None,
        committee=Committee(trainers=list(committee.trainers), aggregators=list(committee.aggregators)),
        last_round_s=node.history[-1].seconds if node.history else None,
        learning=node.learning,
    )


def chain_status(node: Node) -> ChainStatus | None:
    figures = node.protocol.chain
    if figures is None:
        return None
    sent, scalars = node.parts.desk.transport.traffic().wire_sent, figures.scalars_sent
    return ChainStatus(
        height=figures.height,
        certified_height=figures.certified_height,
        final=figures.final,
        members=figures.members,
        is_member=figures.is_member,
        dormant=figures.dormant,
        expelled=figures.expelled,
        scalars_sent=scalars,
        bytes_sent=figures.bytes_sent,
        bytes_per_scalar=figures.bytes_sent / scalars if scalars else None,
        wire_per_scalar=sent / scalars if scalars else None,
        reorganisations=figures.reorganisations,
        dropped_branch=figures.dropped,
    )


def audit_status(node: Node) -> AuditStatus | None:
    figures = node.protocol.audits
    if figures is None:
        return None
    verdicts = [
        VerdictStatus(
            peer=each.peer,
            kind="update" if each.trained else "aggregate",
            round=each.round,
            stage=each.stage.value,
            claim=each.claim.hex(),
            agree=each.agree,
            contradict=each.contradict,
        )
        for each in figures.verdicts
    ]
    counts = {"audited": figures.audited, "doubted": figures.doubted, "unable": figures.unable}
    return AuditStatus(**counts, refused=figures.refused, verdicts=verdicts)


def gossip_status(node: Node) -> GossipStatus | None:
    if not isinstance(node.protocol, Gossip):
        return None
    figures, counts = node.protocol.figures, node.protocol.figures.counts
    return GossipStatus(
        age=figures.age,
        median_age=node.protocol.clock,
        seconds_per_training=figures.turn_s,
        merges=counts.merges,
        models_merged=counts.models,
        models_pulled=figures.pulled,
        models_refused=counts.refused,
        models_waiting=figures.waiting,
        caught_up=counts.caught_up,
        announced_every_s=figures.interval_s,
        neighbours=neighbours(figures, trio.current_time()),
    )


def neighbours(figures: GossipFigures, now_s: float) -> list[Neighbour]:
    """Ages are as they were announced."""
    newest = sorted(figures.heard.items(), key=lambda item: -item[1].at_s)[:NEIGHBOURS_SHOWN]
    paces = [figures.turn_s, *(heard.offer.train_ms / 1000 for heard in figures.heard.values())]
    ages = [figures.age, *(heard.offer.age for heard in figures.heard.values())]
    usual_s, usual = statistics.median(paces), statistics.median(ages)
    return [
        Neighbour(
            peer=peer,
            age=heard.offer.age,
            behind=usual - heard.offer.age,
            seconds_per_training=heard.offer.train_ms / 1000,
            heard_s=now_s - heard.at_s,
            slow=heard.offer.train_ms / 1000 > SLOW * usual_s,
        )
        for peer, heard in newest
    ]


def peers(node: Node) -> list[PeerStatus]:
    membership = node.parts.membership
    linked = node.parts.desk.transport.peers()
    candidates = set(node.parts.sampler.candidates(Round(membership.round + 1)))
    others = [peer for peer in membership.view.present() if peer != membership.me]
    return [_peer(node, peer, peer in linked, peer in candidates) for peer in others]


def _peer(node: Node, peer: PeerId, linked: bool, eligible: bool) -> PeerStatus:
    membership = node.parts.membership
    registration = membership.view.registration(peer)
    assert registration is not None
    rtt_s = membership.rtt_s(peer)
    return PeerStatus(
        peer=peer,
        linked=linked,
        last_active_round=membership.view.last_active(peer),
        roles=[str(role) for role in registration.roles],
        eligible=eligible,
        rtt_ms=None if rtt_s is None else 1e3 * rtt_s,
        standing=_standing(node, peer),
        why=node.standing.why(peer),
        addresses=list(registration.addresses),
    )


def _standing(node: Node, peer: PeerId) -> Repute:
    chain = node.protocol.chain
    if chain is not None and peer in chain.expelled_peers:
        return "expelled"
    return node.standing.repute(peer, node.parts.membership.round).value


def view_status(node: Node) -> ViewStatus:
    membership = node.parts.membership
    candidates = node.parts.sampler.candidates(Round(membership.round + 1))
    return ViewStatus(members=len(membership.view.present()), candidates=len(candidates))


def traffic_status(traffic: Traffic) -> TrafficStatus:
    return TrafficStatus(
        wire_sent=traffic.wire_sent,
        wire_received=traffic.wire_received,
        blob_sent=traffic.blob_sent,
        blob_received=traffic.blob_received,
        gossip_dropped=traffic.gossip_dropped,
    )


def offences(node: Node) -> list[OffenceStatus]:
    newest = node.standing.offences()[-OFFENCES_SHOWN:]
    return [OffenceStatus(peer=each.peer, kind=each.kind, round=each.round, detail=each.detail) for each in newest]


def warnings(node: Node) -> list[str]:
    found = []
    membership = node.parts.membership
    if not membership.rules.admits(membership.me):
        found.append("this run's allow-list does not name this node: its author has to add the peer id")
    found += node.protocol.troubles
    if node.checkpoint_error:
        found.append(f"checkpoints cannot be saved: {node.checkpoint_error}")
    return found
