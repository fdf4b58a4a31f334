"""A node, as its operator sees it: fills `status.report`'s types from the node's parts. Reads only, computes little."""

from __future__ import annotations

import msgspec

from gossipnode.node import Node
from gossipnode.status.report import (
    OFFENCES_SHOWN,
    Committee,
    NodeStatus,
    OffenceStatus,
    PeerStatus,
    ProgressStatus,
    RunState,
    RunStatus,
    Status,
    StoreStatus,
    TrafficStatus,
    ViewStatus,
)
from protocols.transport import Traffic
from sampling.peers import PeerId, Round


def snapshot(node: Node, process: NodeStatus, store: StoreStatus) -> Status:
    """`process` and `store` come from whoever runs the node; what else there is to know, it knows itself."""
    return Status(
        node=process,
        run=run_status(node),
        progress=progress(node),
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
        rounds=run.manifest.rounds,
        manifest=msgspec.to_builtins(run.manifest),
    )


def progress(node: Node) -> ProgressStatus:
    head = node.protocol.head
    last = node.history[-1] if node.history else None
    return ProgressStatus(
        round=head.known.round,
        state=run_state(node),
        head=head.held.model.hex() if head.held else None,
        committee=Committee(trainers=last.trainers, aggregators=last.aggregators) if last else Committee(),
        last_round_s=last.seconds if last else None,
        learning=node.learning,
    )


def run_state(node: Node) -> RunState:
    protocol, head = node.protocol, node.protocol.head
    if head.finished:
        return "finished" if head.held == head.known else "idle"
    if protocol.stalled:
        return "stalled"
    if protocol.trainer.training:
        return "training"
    if protocol.aggregator is not None and protocol.aggregator.busy:
        return "aggregating"
    return "idle" if head.known.round else "waiting"


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
        standing=node.standing.repute(peer, membership.round).value,
        addresses=list(registration.addresses),
    )


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
    failure = node.protocol.trainer.failure
    if failure:
        found.append(f"the task fails: {failure}")
    if node.protocol.evaluation_failure:
        found.append(f"the model cannot be evaluated: {node.protocol.evaluation_failure}")
    if node.protocol.stalled:
        found.append(f"no round has finished for several deadlines{'' if failure else ': too few peers answer'}")
    if (dropped := node.protocol.head.dropped) is not None:
        left, better = dropped
        found.append(
            f"round {left.round}: {left.model.hex()[:8]} was dropped for the better branch {better.model.hex()[:8]}"
        )
    if node.checkpoint_error:
        found.append(f"checkpoints cannot be saved: {node.checkpoint_error}")
    return found
