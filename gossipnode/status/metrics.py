"""`/metrics`: the same `Status`, as Prometheus text. Values are read at the moment of the scrape; nothing is kept here.

Invariant: label values come from fixed vocabularies (standings, offence kinds, quantiles, states), never from peers, so
no peer can grow the number of series. What is not known yet has no sample, rather than a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gossipnode.status.report import ChainStatus, GossipStatus, NodeStatus, Repute, Snapshot, Status
from protocols.training import Phase


def gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"gossipnode_{name}", text, value=value)


def counter(name: str, text: str, value: float) -> Iterator[Metric]:
    yield CounterMetricFamily(f"gossipnode_{name}", text, value=value)


def labelled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Iterator[Metric]:
    for label, value in values.items():
        family.add_metric([label], value)
    yield family


def node_metrics(node: NodeStatus) -> Iterator[Metric]:
    yield from gauge("uptime_seconds", "Since the process started.", node.uptime_s)
    yield from gauge("joined", "1 once a manifest is held and membership runs.", float(node.joined))
    yield from gauge("resident_bytes", "Memory of the daemon, without its worker.", node.rss_bytes)
    yield from gauge("worker_resident_bytes", "Memory of the compute worker.", node.worker_rss_bytes)
    yield from gauge("privacy_epsilon", "Spent by private probes.", node.epsilon)
    lag = node.loop_lag
    yield from labelled(
        GaugeMetricFamily("gossipnode_loop_lag_seconds", "Lateness of the event loop.", labels=["quantile"]),
        {"0.5": lag.p50_ms / 1000, "0.99": lag.p99_ms / 1000, "1": lag.max_ms / 1000},
    )


def progress_metrics(status: Status) -> Iterator[Metric]:
    progress = status.progress
    yield from gauge("round", "Present round.", progress.round)
    yield from gauge("last_round_seconds", "Duration of the last complete round.", progress.last_round_s)
    yield from labelled(
        GaugeMetricFamily("gossipnode_state", "1 for the present state.", labels=["state"]),
        {state: float(state == progress.state) for state in get_args(Phase)},
    )
    if learning := progress.learning:
        yield from gauge("loss", "Of our latest evaluation.", learning.loss)
        yield from gauge("accuracy", "Of our latest evaluation.", learning.accuracy)
        yield from gauge("evaluated_round", "Round of our latest evaluation.", learning.evaluated_round)


def chain_metrics(chain: ChainStatus) -> Iterator[Metric]:
    yield from gauge("certified_height", "Blocks up to here are never left.", chain.certified_height)
    yield from gauge("final", "1 while certification keeps up.", float(chain.final))
    yield from gauge("chain_members", "Who probe, propose and vote.", chain.members)
    yield from gauge("chain_member", "1 while we are one.", float(chain.is_member))
    yield from gauge("dormant", "1 while we get no seats, having missed some.", float(chain.dormant))
    yield from gauge("expelled", "1 if we were expelled.", float(chain.expelled))
    yield from counter("scalars_sent", "Projected gradients, one byte each.", chain.scalars_sent)
    yield from counter("chain_sent_bytes", "Of our own entries, blocks and changes.", chain.bytes_sent)
    yield from counter("reorganisations", "Times that we left a branch.", chain.reorganisations)


def gossip_metrics(gossip: GossipStatus) -> Iterator[Metric]:
    yield from gauge("median_age", "Trainings, the median over all heard of.", gossip.median_age)
    yield from gauge("training_seconds", "From one training of ours to the next.", gossip.seconds_per_training)
    yield from counter("merges", "Times that others' models were merged into ours.", gossip.merges)
    yield from counter("models_merged", "Models of others in them.", gossip.models_merged)
    yield from counter("models_refused", "Models that were not fit to be merged.", gossip.models_refused)
    yield from gauge("slow_neighbours", "Who take over twice the median.", sum(each.slow for each in gossip.neighbours))


def swarm_metrics(status: Status) -> Iterator[Metric]:
    yield from gauge("members", "Peers of the view that have not left, ourselves included.", status.view.members)
    yield from gauge("candidates", "Members that could be sampled.", status.view.candidates)
    yield from gauge("peers_linked", "Peers with an open connection.", sum(peer.linked for peer in status.peers))
    standings = Counter(peer.standing for peer in status.peers)
    yield from labelled(
        GaugeMetricFamily("gossipnode_peers", "Other peers of the view, by standing.", labels=["standing"]),
        {standing: standings[standing] for standing in get_args(Repute)},
    )
    yield from labelled(
        CounterMetricFamily("gossipnode_offences", "Faults of peers that we saw, by kind.", labels=["kind"]),
        status.offence_counts,
    )


def resource_metrics(status: Status) -> Iterator[Metric]:
    traffic, store = status.traffic, status.store
    yield from counter("wire_sent_bytes", "Everything sent on sockets.", traffic.wire_sent)
    yield from counter("wire_received_bytes", "Everything received on sockets.", traffic.wire_received)
    yield from counter("blob_sent_bytes", "Payload of bulk streams sent.", traffic.blob_sent)
    yield from counter("blob_received_bytes", "Payload of bulk streams received.", traffic.blob_received)
    yield from counter("gossip_dropped", "Messages heard but dropped, the node being too slow.", traffic.gossip_dropped)
    yield from gauge("store_bytes", "Blobs on disk.", store.bytes)
    yield from gauge("store_max_bytes", "What the store may grow to.", store.max_bytes)
    yield from gauge("store_blobs", "Blobs on disk.", store.blobs)
    yield from gauge("checkpoint_round", "Newest round that would survive a crash.", store.checkpoint_round)
    yield from gauge("checkpoint_failing", "1 if the last save failed.", float(store.checkpoint_error is not None))
    yield from gauge("warnings", "Lines the operator should look at.", len(status.warnings))


def metrics_of(status: Status) -> Iterator[Metric]:
    yield from node_metrics(status.node)
    yield from progress_metrics(status)
    if status.chain is not None:
        yield from chain_metrics(status.chain)
    if status.gossip is not None:
        yield from gossip_metrics(status.gossip)
    yield from swarm_metrics(status)
    yield from resource_metrics(status)


class StatusCollector(Collector):
    """Asks for a snapshot at every scrape."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        return metrics_of(self._snapshot())


def exposition(snapshot: Snapshot) -> bytes:
    """A registry of its own each time: nothing global, and nothing of other libraries in it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(snapshot))
    return generate_latest(registry)
