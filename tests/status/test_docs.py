"""docs/status.md against the code: every key, type, metric, state, kind and weight, both ways."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from gossipnode.status import http, report
from gossipnode.status.metrics import metrics_of
from gossipnode.status.report import Part, Status
from protocols.training import Phase
from verify import standing

DOCS = (Path(__file__).parents[2] / "docs" / "status.md").read_text("utf-8")
STRUCTS = [kind for kind in vars(report).values() if isinstance(kind, type) and issubclass(kind, Part) and kind != Part]
WORDS = {str: "string", int: "int", float: "float", bool: "bool", Any: "any", types.NoneType: "null"}


def section(title: str) -> str:
    return re.split(r"^##+ ", DOCS.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(title: str) -> dict[str, list[str]]:
    """First column, without its code marks, to the others."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section(title).splitlines() if "|" in line
    ]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def described(kind: Any) -> str:  # noqa: ANN401  # a type expression has no narrower type
    """A type in the docs' words."""
    if get_origin(kind) is types.UnionType:
        return " or ".join(described(part) for part in get_args(kind))
    if get_origin(kind) is list:
        return f"list of {described(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"map of {described(get_args(kind)[0])} to {described(get_args(kind)[1])}"
    if get_origin(kind) is Literal:
        return "string"
    return WORDS.get(kind) or kind.__name__


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_key_is_described_with_its_type(struct: type[Part]) -> None:
    rows = table(struct.__name__)
    assert {key: row[0] for key, row in rows.items()} == {
        key: described(kind) for key, kind in get_type_hints(struct).items()
    }
    assert all(row[1] for row in rows.values())


def test_the_vocabularies_are_complete() -> None:
    def words(title: str, key: str) -> set[str]:
        return set(re.findall(r"`([\w-]+)`", table(title)[key][1]))

    assert words("ProgressStatus", "state") == set(get_args(Phase))
    assert words("PeerStatus", "standing") == set(get_args(report.Repute)) == set(standing.Repute)
    assert words("OffenceStatus", "kind") == set(standing.OffenceKind)


def test_the_weights_and_terms_are_those_of_the_judge() -> None:
    assert {kind: int(row[0]) for kind, row in table("How peers are judged").items()} == standing.WEIGHTS
    text = " ".join(section("How peers are judged").split())
    for words in (
        f"every {standing.FORGIVE_ROUNDS} rounds forgive one",
        f"At {standing.QUARANTINE_STRIKES} strikes",
        f"for {standing.QUARANTINE_ROUNDS} rounds",
        f"at most {standing.BURST_STRIKES} strikes",
    ):
        assert words in text


def test_the_limits_are_those_of_the_server() -> None:
    text = " ".join(DOCS.split())
    assert (
        f"At most {http.CONNECTIONS} connections are served at once, each for at most {http.CONNECTION_S:.0f} s" in text
    )
    assert f"at most {report.HISTORY_ROUNDS} " in text
    assert f"at most {report.OFFENCES_SHOWN} " in text
    assert f"at most {report.NEIGHBOURS_SHOWN} " in section("GossipStatus")
    assert f"at most {standing.DETAIL_CHARS} characters" in text


def exposed(status: Status) -> Iterator[tuple[str, str]]:
    for metric in metrics_of(status):
        (name,) = {sample.name for sample in metric.samples}
        (labels,) = {tuple(sample.labels) for sample in metric.samples}
        yield name + (f"{{{','.join(labels)}}}" if labels else ""), metric.type


def test_every_metric_is_described_with_its_type(chain_report: Status, gossip_report: Status) -> None:
    node = msgspec.structs.replace(chain_report.node, worker_rss_bytes=1)
    documented = {name: row[0] for name, row in table("The metrics").items()}
    assert documented == dict(exposed(msgspec.structs.replace(chain_report, node=node, gossip=gossip_report.gossip)))
