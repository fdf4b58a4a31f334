"""The manifest: everything the peers of one run must agree on, fixed by its author.

The run id is the BLAKE2b-256 of the first manifest's canonical msgpack (structs as arrays, in field order); it salts
every topic, ranking, seed and signature, so that two runs never mix. Bytes that are not canonical, or whose values are
out of range or contradict each other, are no manifest: whoever opens the same bytes gets the same manifest or the same
refusal. `protocols.amendments` says how it is signed and changed. The descriptions here are the only ones: the TOML
file, the documents and `--help` show them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from protocols import limits, merging
from protocols.chain import rules as chain
from protocols.gossip import rules as gossip
from protocols.section import Section
from protocols.signatures import public_key_of
from sampling.peers import PeerId
from verify.digest import digest_of

VERSION: Final = 1
_LINE_CHARS: Final = 300

Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
Committee = Annotated[int, Meta(ge=1, le=limits.COMMITTEE)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Rounds = Annotated[int, Meta(ge=0, le=limits.ROUND)]


class BadManifest(Exception):
    """Not a manifest, or not its author's. One line, fit for a log or for the operator who wrote it."""

    def __init__(self, text: str) -> None:
        line = "".join(letter if letter.isprintable() else "?" for letter in text[:_LINE_CHARS])
        super().__init__(line)  # it may quote what a peer sent


class Training(Section, frozen=True, kw_only=True):
    """Local work of one trainer in one round: SGD with momentum."""

    lr: Annotated[float, Meta(gt=0.0, le=100.0, description="learning rate")] = 0.05
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0, description="momentum of SGD; starts at zero in every round")] = 0.9
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0, description="L2 penalty")] = 0.0
    batch: Annotated[int, Meta(ge=1, le=65_536, description="examples a step")] = 20
    epochs: Annotated[int, Meta(ge=0, le=1000, description="passes over the shard a round; 0: use `steps`")] = 1
    steps: Annotated[int, Meta(ge=0, le=1_000_000, description="batches a round, when epochs = 0")] = 0
    logit_adjustment: Annotated[
        float,
        Meta(
            ge=0.0,
            le=4.0,
            description="tau: while training, scores are raised by tau log(share) of their class in "
            "the shard (smoothed by one half), for uneven labels; 0: not",
        ),
    ] = 0.0

    def batches(self, examples: int) -> int:
        """Steps of a round on so many examples."""
        return self.epochs * -(-examples // self.batch) if self.epochs else self.steps


class Modest(Section, frozen=True, kw_only=True):
    """MoDeST (arXiv 2302.13837): the committee of a round, and who stays a candidate for it."""

    trainers: Annotated[Committee, Meta(description="peers that train in a round (the paper's s)")] = 4
    aggregators: Annotated[Committee, Meta(description="peers that merge the models of a round (a)")] = 1
    success_fraction: Annotated[
        Fraction, Meta(description="share of the trainers' models that an aggregator waits for (sf)")
    ] = 1.0
    activity_window: Annotated[
        int, Meta(ge=2, le=limits.ROUND, description="rounds without a sign of life before a peer is no candidate (dk)")
    ] = 50
    pull_every: Annotated[
        int, Meta(ge=1, le=limits.ROUND, description="nodes outside the committee fetch every n-th aggregate")
    ] = 20


class Timing(Section, frozen=True, kw_only=True):
    """Bounds of the deadlines that nodes learn from measured round trips."""

    ping_floor_s: Annotated[Seconds, Meta(description="no ping is given up earlier")] = 0.25
    ping_ceiling_s: Annotated[Seconds, Meta(description="no ping is waited for any longer")] = 5.0
    round_floor_s: Annotated[Seconds, Meta(description="no round is taken for stalled earlier")] = 1.0
    round_ceiling_s: Annotated[Seconds, Meta(description="no round is waited for any longer")] = 300.0


class Admission(Section, frozen=True, kw_only=True):
    """Who may take part."""

    mode: Annotated[
        Literal["open", "allow"], Meta(description="open: anyone, for experiments; allow: only the peers named")
    ] = "open"
    allow: Annotated[tuple[PeerId, ...], Meta(max_length=1000, description="peer ids, when mode is allow")] = ()
    delay_rounds: Annotated[Rounds, Meta(description="rounds between joining and first being sampled")] = 0


class Audit(Section, frozen=True, kw_only=True):
    """Claims, audits and what follows (docs/audits.md)."""

    fraction: Annotated[
        float,
        Meta(
            ge=0.0, le=1.0, description="share of the claims that are audited; 0: none, and no signature is looked at"
        ),
    ] = 0.04
    policy: Annotated[
        Literal["auto", "replay", "recompute", "probe"],
        Meta(
            description="how updates are audited: replay (train again: shards that others can make), probe (compare "
            "with updates of one's own; suspends, no proof), auto (replay where possible, else probe), recompute (only "
            "aggregates are audited)"
        ),
    ] = "auto"
    examples: Annotated[
        int,
        Meta(
            ge=1,
            le=limits.SAMPLES,
            description="examples of a shard that others can make, at most: updates of larger ones are not merged, for "
            "an auditor would have to train on as many",
        ),
    ] = 1_000_000
    tolerance_bits: Annotated[
        int, Meta(ge=0, le=128, description="bits of 256 in which two honest signatures may differ")
    ] = 8
    tolerance_norm: Annotated[
        int, Meta(ge=1, le=1024, description="steps of 1.1 % by which two honest norms may differ")
    ] = 2
    appeal: Annotated[
        int,
        Meta(
            ge=3, le=limits.APPEAL, description="auditors, at least, whose majority expels, or acquits; an odd number"
        ),
    ] = 11
    readmit_rounds: Annotated[
        Rounds, Meta(description="rounds after which an expelled peer may come back; 0: never, it needs a new identity")
    ] = 0


class Manifest(Section, frozen=True, kw_only=True):
    """The defaults are those of `gossipnode start` without options."""

    version: Annotated[Literal[1], Meta(description="version of this format")] = 1
    name: Annotated[str, Meta(min_length=1, max_length=64, description="name of the run, for people")]
    protocol: Annotated[
        Literal["modest", "onebyte", "gossip"],
        Meta(
            description="how peers train together: modest (whole models, in rounds), onebyte (one byte a gradient) or "
            "gossip (whole models, each node at its own pace)"
        ),
    ]
    task: Annotated[
        str, Meta(min_length=1, max_length=200, description="name of a built-in task, or package.module:attribute")
    ]
    task_source: Annotated[
        str, Meta(pattern="^([0-9a-f]{64})?$", description="BLAKE2b-256 of the task's source, unless it is built in")
    ] = ""
    author: Annotated[PeerId, Meta(description="peer id whose key signs this and every amendment")]
    seed: Annotated[int, Meta(ge=0, le=2**62, description="seed of theta0 and of every batch order")] = 0
    theta0: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="BLAKE2b-256 of the initial model's blob")]
    model_bytes: Annotated[
        int,
        Meta(
            ge=1,
            le=limits.BLOB_BYTES,
            description="size of every blob that peers of this run fetch: a model, or the sum A of one-byte training",
        ),
    ]
    encoding: Annotated[
        Literal["float32", "bfloat16", "int8"], Meta(description="of model values: float32, bfloat16 or int8")
    ] = "float32"
    rounds: Annotated[
        Rounds,
        Meta(description="the run ends after this many (of its own trainings for each node, in gossip); 0: never"),
    ] = 0
    start_peers: Annotated[
        int, Meta(ge=1, le=limits.VIEW_PEERS, description="trainers that must be known before round 1")
    ] = 1
    training: Training = Training()
    modest: Modest = Modest()
    timing: Timing = Timing()
    admission: Admission = Admission()
    audit: Audit = Audit()
    onebyte: chain.Rules = chain.Rules()
    merging: merging.Merging = merging.Merging()
    gossip: gossip.Rules = gossip.Rules()


def canonical(manifest: Manifest) -> bytes:
    """The bytes that are signed and hashed. Raises BadManifest if a value is not of its type or range."""
    return msgspec.msgpack.encode(_values(_typed(msgspec.to_builtins(manifest))))


def run_id(manifest: Manifest) -> bytes:
    """32 bytes. Of the first manifest of a run: amendments never change it."""
    return digest_of(canonical(manifest))


def open_manifest(data: bytes) -> Manifest:
    """The manifest whose canonical bytes these are. `data` may be hostile; raises BadManifest and nothing else."""
    if len(data) > limits.MANIFEST_BYTES:
        raise BadManifest(f"manifest of {len(data)} bytes; at most {limits.MANIFEST_BYTES} are allowed")
    try:
        values = msgspec.msgpack.decode(data)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own, and text that is not UTF-8
        raise BadManifest(f"manifest is not msgpack: {error}") from error
    manifest = validated(_named(values, Manifest, "manifest"))
    if canonical(manifest) != data:
        raise BadManifest("manifest is not in canonical form")
    return manifest


def validated(tables: Any) -> Manifest:  # noqa: ANN401 - whatever TOML or msgpack gave; this is where it gets its type
    """Types, ranges, and what must hold between fields. Raises BadManifest, naming the dotted key."""
    manifest = _typed(tables)
    for fault in _faults(manifest):
        raise BadManifest(fault)
    return manifest


def plain(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `float` > 0.0 - at `$.training.lr`" as "training.lr: expected float > 0.0"."""
    text, _, where = str(error).partition(" - at ")
    text = text[:1].lower() + text[1:].replace("`", "")
    key = where.strip("`").removeprefix("$").removeprefix(".")
    return f"{key}: {text}" if key else text


def _typed(tables: Any) -> Manifest:  # noqa: ANN401 - as above
    try:
        return msgspec.convert(tables, Manifest)
    except msgspec.ValidationError as error:
        raise BadManifest(plain(error)) from error


def _faults(manifest: Manifest) -> Iterator[str]:
    """What no single field's range can say."""
    training, modest, timing, admission = manifest.training, manifest.modest, manifest.timing, manifest.admission
    if not (manifest.name.isprintable() and manifest.task.isprintable()):
        yield "name, task: expected printable characters only"  # they are shown on terminals
    if (":" in manifest.task) != bool(manifest.task_source):
        yield "task_source: needed for a task package.module:attribute, and only for such a one"
    if (training.epochs > 0) == (training.steps > 0):
        yield "training.epochs, training.steps: exactly one of them must be above 0"
    if modest.aggregators > modest.trainers:
        yield f"modest.aggregators: {modest.aggregators} are more than the {modest.trainers} trainers"
    if timing.ping_floor_s > timing.ping_ceiling_s:
        yield "timing.ping_floor_s: above timing.ping_ceiling_s"
    if timing.round_floor_s > timing.round_ceiling_s:
        yield "timing.round_floor_s: above timing.round_ceiling_s"
    if manifest.audit.appeal % 2 == 0:
        yield f"audit.appeal: {manifest.audit.appeal} is even, so that votes could be tied"
    yield from _admission_faults(admission, manifest.start_peers)
    if manifest.protocol == "onebyte":
        yield from _chain_faults(manifest)
    elif manifest.protocol == "gossip":
        yield from merging.faults(manifest.merging, manifest.gossip.neighbours + 1)
        yield from gossip.faults(manifest.gossip, manifest.merging.byzantine)
        yield from _replay_faults(manifest)
        yield from _piece_faults(manifest)
    else:
        yield from merging.faults(manifest.merging, math.ceil(modest.success_fraction * modest.trainers - 1e-9))
    if manifest.merging.rule in merging.OWN and manifest.protocol != "gossip":
        yield f"merging.rule: {manifest.merging.rule} goes by a node's own examples: only with protocol gossip"
    for key, peer in (("author", manifest.author), *(("admission.allow", peer) for peer in admission.allow)):
        if public_key_of(peer) is None:
            yield f"{key}: {peer[:60]!a} is not the id of an Ed25519 key (12D3KooW...)"


def _admission_faults(admission: Admission, start_peers: int) -> Iterator[str]:
    if (admission.mode == "allow") != bool(admission.allow):
        yield "admission.allow: needed when admission.mode is allow, and only then"
    if len(set(admission.allow)) < len(admission.allow):
        yield "admission.allow: names a peer twice"
    if admission.mode == "allow" and start_peers > len(admission.allow):
        yield f"start_peers: {start_peers} can never be known, admission.allow names only {len(admission.allow)}"


def chain_rules(manifest: Manifest) -> chain.Rules:
    """Without founders it is the author who founds the run, and the others join."""
    founders = manifest.onebyte.founders or (manifest.author,)
    return msgspec.structs.replace(manifest.onebyte, founders=founders)


def _chain_faults(manifest: Manifest) -> Iterator[str]:
    yield from chain.faults(chain_rules(manifest))
    if manifest.admission.mode == "allow":
        for peer in manifest.onebyte.founders:
            if peer not in manifest.admission.allow:
                yield f"onebyte.founders: {peer} is not in admission.allow"


def _piece_faults(manifest: Manifest) -> Iterator[str]:
    """What does not go with models in pieces."""
    if manifest.gossip.fragments == 1:
        return
    if manifest.audit.fraction:
        yield (
            f"gossip.fragments, audit.fraction: a merge of pieces cannot be audited; set audit.fraction = 0, or leave"
            f" gossip.fragments at 1 instead of {manifest.gossip.fragments}"
        )
    if manifest.encoding == "int8":
        yield "gossip.fragments, encoding: scales of int8 stand apart from their values; use bfloat16 or fragments = 1"
    if manifest.merging.rule in merging.OWN:
        yield f"gossip.fragments: {manifest.merging.rule} tries whole output layers; leave it at 1"
    if manifest.merging.rule == "flora":
        yield "gossip.fragments: flora merges whole adapters, which a piece may cut; leave it at 1"


def _replay_faults(manifest: Manifest) -> Iterator[str]:
    """In gossip, where an audit is a replay or nothing."""
    audit = manifest.audit
    if audit.fraction and audit.policy in ("probe", "recompute"):
        yield f"audit.policy: gossip replays models or audits none, not {audit.policy}; use auto, or audit.fraction = 0"
    if audit.fraction and manifest.merging.rule in merging.OWN:
        yield f"audit.fraction: merges by {manifest.merging.rule} cannot be made again by others; set it to 0"


def _values(section: Section) -> list[Any]:
    values = (getattr(section, name) for name in section.__struct_fields__)
    return [_values(value) if isinstance(value, Section) else value for value in values]


def _named(values: Any, table: type[Section], key: str) -> dict[str, Any]:  # noqa: ANN401 - untyped msgpack
    fields = msgspec.structs.fields(table)
    if not isinstance(values, list):
        raise BadManifest(f"{key}: expected an array, got {type(values).__name__}")
    if table is Manifest and values and isinstance(values[0], int) and values[0] != VERSION:
        raise BadManifest(f"manifest version {values[0]}; this gossipnode knows version {VERSION}")
    if len(values) != len(fields):
        raise BadManifest(f"{key}: expected {len(fields)} values, got {len(values)}")
    return {
        field.name: _named(value, field.type, field.name) if _is_table(field.type) else value
        for field, value in zip(fields, values, strict=True)
    }


def _is_table(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
