"""What may befall a simulated swarm, and when: the events of a scenario file, each a struct with an `at`.

An event happens when the swarm's highest round reaches `at_round`, or at `at_s` virtual seconds; `for_s` undoes it that
much later (the killed come back with their journal and store, the partition heals). Whom it strikes is drawn from the
scenario's seed. Invariant: what cannot happen in the run that it is part of is an OperatorError before the run begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from gossipnode.errors import OperatorError
from gossipnode.toml import typed

FACTOR: Final = 100.0  # a hundredfold: a modem among data centres

Amount = Annotated[float, Meta(gt=0.0)]  # below 1: that share of the living nodes; else how many
Round = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0.0)]
Lasting = Annotated[float, Meta(gt=0.0)]
Factor = Annotated[float, Meta(ge=1.0, le=FACTOR)]


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """When. Exactly one of the two is given."""

    kind: ClassVar[str]
    at_round: Round | None = None
    at_s: Seconds | None = None


class Kill(Event, frozen=True, kw_only=True):
    """Their machines are gone, without goodbye."""

    kind = "kill"
    nodes: Amount
    for_s: Lasting | None = None  # then they come back


class Leave(Event, frozen=True, kw_only=True):
    """They say goodbye and go."""

    kind = "leave"
    nodes: Amount
    for_s: Lasting | None = None


class Restart(Event, frozen=True, kw_only=True):
    """So many of those that are away come back: same identity, journal and store."""

    kind = "restart"
    nodes: Amount


class Join(Event, frozen=True, kw_only=True):
    """New identities, each given the addresses of a few random living nodes."""

    kind = "join"
    nodes: Annotated[int, Meta(ge=1)]


class Partition(Event, frozen=True, kw_only=True):
    """The living fall into groups of these shares, and the rest makes one more, unless the shares make up a whole."""

    kind = "partition"
    groups: Annotated[tuple[float, ...], Meta(min_length=1)]
    one_way: bool = False  # nothing gets from the first group to the others; the way back stays open
    for_s: Lasting | None = None


class Heal(Event, frozen=True, kw_only=True):
    """Every partition ends."""

    kind = "heal"


class Slow(Event, frozen=True, kw_only=True):
    """Their links become so many times slower and narrower."""

    kind = "slow"
    nodes: Amount
    latency: Factor = 1.0
    bandwidth: Factor = 1.0
    for_s: Lasting | None = None


class Freeze(Event, frozen=True, kw_only=True):
    """As SIGSTOP and SIGCONT: they neither send nor hear, then go on where they were."""

    kind = "freeze"
    nodes: Amount
    for_s: Lasting


class Churn(Event, frozen=True, kw_only=True):
    """Every so often one is killed, and the one killed before comes back."""

    kind = "churn"
    every_s: Lasting
    for_s: Lasting


KINDS: Final = {kind.kind: kind for kind in (Kill, Leave, Restart, Join, Partition, Heal, Slow, Freeze, Churn)}


def event_of(table: Mapping[str, Any], source: str) -> Event:
    """One table of a scenario file. Raises OperatorError."""
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise OperatorError(f"{source}: `kind` is one of {', '.join(KINDS)}")
    return typed({key: value for key, value in table.items() if key != "kind"}, KINDS[kind], f"{source} ({kind})")


def told(event: Event) -> dict[str, Any]:
    """An event as its table, for the report and for a file."""
    return {"kind": event.kind, **msgspec.to_builtins(event)}


def at(option: str, text: str) -> tuple[int | float, int]:
    """`0.8@40` as (0.8, 40). Raises OperatorError."""
    amount, _, round = text.partition("@")
    try:
        return (float(amount) if "." in amount else int(amount)), int(round)
    except ValueError as error:
        raise OperatorError(
            f"{option} {text}: expected NODES@ROUND, as in {option} 3@40" + _share_hint(option)
        ) from error


def _share_hint(option: str) -> str:
    return "" if option == "--join" else f" or, for a share of them, {option} 0.8@40"


def option_events(kills: Sequence[str], joins: Sequence[str], restarts: Sequence[str]) -> list[Event]:
    """Of the command line's --kill, --join and --restart. Raises OperatorError."""
    given = [("--kill", kills), ("--join", joins), ("--restart", restarts)]
    return [_option_event(option, text) for option, texts in given for text in texts]


def _option_event(option: str, text: str) -> Event:
    nodes, round = at(option, text)
    source = f"{option} {text}"
    event = event_of({"kind": option.removeprefix("--"), "nodes": nodes, "at_round": round}, source)
    require_possible([event], source)
    return event


def require_possible(events: Sequence[Event], source: str, rounds: int = 0) -> None:
    """What no field's own range can say. `rounds`: of the run, 0 for any. Raises OperatorError."""
    for number, event in enumerate(events, start=1):
        for fault in _faults(event, rounds):
            raise OperatorError(f"{source}: event {number} ({event.kind}): {fault}")


def _faults(event: Event, rounds: int) -> list[str]:
    found = []
    if (event.at_round is None) == (event.at_s is None):
        found.append("give at_round or at_s, one of them")
    if rounds and event.at_round is not None and event.at_round > rounds:
        found.append(f"the run ends at round {rounds}, before round {event.at_round}: give more rounds")
    nodes = getattr(event, "nodes", 1)
    if nodes > 1 and nodes != int(nodes):
        found.append(f"nodes = {nodes} is neither a share below 1 nor a whole number")
    if isinstance(event, Partition) and not (
        all(share > 0 for share in event.groups) and sum(event.groups) <= 1 + 1e-9
    ):
        found.append("groups are shares above 0 that add up to 1 at most")
    if isinstance(event, Partition) and sum(event.groups) >= 1 - 1e-9 and len(event.groups) < 2:
        found.append("one group of all nodes is no partition")
    return found
