"""The adversaries are test equipment: each does what its name says, in the very seams of a normal node, and a swarm
with some of them among its nodes ends, is looked at by its honest nodes only, and says who they were."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from click.testing import CliRunner
from trio.testing import MockClock

from gossipnode.adversaries.bent import Gang
from gossipnode.adversaries.header import template_of
from gossipnode.adversaries.kinds import KINDS, cast_of, kinds_for
from gossipnode.adversaries.mislabelled import spec_of
from gossipnode.cli import main
from gossipnode.compute.inline import InlineSwarm
from gossipnode.conduct import HONEST, Conduct
from gossipnode.errors import OperatorError
from gossipnode.learn.config import LearnerConfig
from gossipnode.learn.encoding import Template, Vector, decode, encode
from gossipnode.learn.shard import Shard
from gossipnode.learn.task import load_task
from gossipnode.memoryblobs import MemoryBlobs
from gossipnode.simulation import Outcome, Scenario, simulate
from protocols.learner import Probed, Trained
from protocols.manifest import Training
from sampling.peers import Round

CONFIG = LearnerConfig(task="digits", seed=1, training=Training(lr=0.1), shard=Shard(count=8))


def conduct_of(kind: str) -> Conduct:
    return KINDS[kind](Gang(random.Random(5)))


async def trained(conduct: Conduct, rounds: int = 1) -> list[tuple[Trained, Vector]]:
    """What it hands in, each time asked to train from the same theta0; and its update."""
    config = conduct.config(CONFIG)
    swarm, blobs = InlineSwarm(config), MemoryBlobs(10**8)
    learner = conduct.learner(swarm.learner(config.shard, blobs), blobs)
    theta0 = await learner.initial()
    start = await blobs.get(theta0)
    found = []
    for round in range(rounds):
        done = await learner.train(theta0, Round(round), seed=round)
        blob, template = await blobs.get(done.model), template_of(start)
        found.append((done, decode(blob, template) - decode(start, template)))
    return found


async def update(kind: str | None) -> Vector:
    ((_, vector),) = await trained(HONEST if kind is None else conduct_of(kind))
    return vector


def cosine(one: Vector, other: Vector) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


async def test_what_each_trainer_hands_in_is_what_its_name_says(autojump_clock: MockClock) -> None:
    honest = await update(None)
    assert np.allclose(await update("sign-flip"), -honest, atol=1e-6)
    assert np.allclose(await update("scaling"), 10 * honest, atol=1e-5)
    noise = await update("noise")
    assert abs(cosine(noise, honest)) < 0.1
    assert np.linalg.norm(noise) == pytest.approx(10 * np.linalg.norm(honest), rel=1e-3)
    assert 0.5 < cosine(await update("alie"), honest) < 0.999  # close enough to be overlooked
    assert cosine(await update("inner-product"), honest) < -0.9
    assert np.linalg.norm(await update("lazy")) < 0.5 * np.linalg.norm(honest)
    assert cosine(await update("wrong-shard"), honest) < 0.999
    assert cosine(await update("label-flip"), honest) < 0.5
    assert not np.any(await update("free-rider"))


async def test_stale_work_is_the_same_again_and_an_honest_trainer_s_is_not(autojump_clock: MockClock) -> None:
    first, second = await trained(conduct_of("stale"), 2)
    assert first[0].model == second[0].model
    first, second = await trained(HONEST, 2)
    assert first[0].model != second[0].model


class Prober:
    """A learner whose bytes are known."""

    async def probe(self, seeds: Sequence[int], *, seed: int) -> Probed:
        return Probed(np.array([3, -40, 0, 127], dtype=np.int8).tobytes(), 1.0, 0, 0.1)


@pytest.mark.parametrize(
    ("kind", "scalars"),
    [("sign-flip", [-3, 40, 0, -127]), ("scaling", [30, -127, 0, 127]), ("free-rider", [0, 0, 0, 0])],
)
async def test_bytes_are_bent_too_and_stay_bytes(kind: str, scalars: list[int]) -> None:
    learner = conduct_of(kind).learner(Prober(), MemoryBlobs(100))  # type: ignore[arg-type]  # probes only
    probed = await learner.probe([1, 2, 3, 4], seed=1)
    assert np.frombuffer(probed.scalars, dtype=np.int8).tolist() == scalars


@pytest.mark.parametrize("encoding", ["float32", "bfloat16", "int8"])
def test_a_header_tells_the_whole_template(encoding: str) -> None:
    template = Template([("a.weight", (30, 20)), ("a.scale", (7,)), ("b", ())], encoding)  # type: ignore[arg-type]
    blob = encode(np.linspace(-1, 1, template.parameters, dtype=np.float32), template)
    found = template_of(blob)
    assert (found.layout, found.encoding, found.header) == (template.layout, template.encoding, template.header)


def test_a_mislabelled_task_is_the_task_but_for_its_training_labels() -> None:
    honest, flipped = load_task("digits"), load_task(spec_of("digits"))
    one, other = honest.data(Shard(index=1, count=4), None), flipped.data(Shard(index=1, count=4), None)
    assert (one.pool[1] + other.pool[1]).unique().tolist() == [9]
    assert (one.rows == other.rows).all()
    assert (one.test[1] == other.test[1]).all()


def played(*adversaries: str, nodes: int = 6, **tables: object) -> Outcome:
    settings = {"task": "digits", "rounds": 3, "start_peers": nodes, "modest": {"trainers": 4}, **tables}
    return simulate(Scenario(nodes=nodes, seed=2, tables=settings, adversaries=adversaries, limit_s=2000))


@pytest.mark.parametrize("kind", kinds_for("modest"))
def test_a_swarm_with_two_of_them_ends_and_its_honest_nodes_agree(kind: str) -> None:
    outcome = played(kind, kind)
    report = outcome.report
    assert outcome.succeeded, report.broken
    assert list(report.accuracy.per_node) == ["node-0", "node-1", "node-2", "node-3"]
    assert report.digests.agreeing == 4
    assert list(report.adversaries.values()) == [kind, kind]
    assert report.falsely_expelled == []
    caught = {each.peer for each in report.caught}
    assert caught.isdisjoint(report.missed)
    assert caught | set(report.missed) == set(report.adversaries)


def test_who_sends_rubbish_is_caught_with_evidence() -> None:
    report = played("garbage", rounds=10).report
    assert [each.kind for each in report.caught] == ["garbage"]
    assert report.caught[0].evidence.partition(":")[0] in ("malformed-frame", "wrong-digest")
    assert report.missed == []


def test_a_seed_is_one_trace_with_liars_in_it_and_liars_change_it() -> None:
    traces = [played(*liars).trace for liars in (("alie",), ("alie",), ())]
    assert traces[0] == traces[1] != traces[2]


def test_the_cast() -> None:
    assert cast_of(["lazy:2", "noise:1"], 4, "modest") == ("lazy", "lazy", "noise")
    for asked, line in [
        (["sign-flop:1"], "no adversary is called 'sign-flop': did you mean 'sign-flip'?"),
        (["lazy"], "expected KIND:COUNT"),
        (["lazy:0"], "expected KIND:COUNT"),
        (["censor:1"], "--adversary censor: not in modest runs, which have sign-flip, "),
        (["lazy:3", "noise:1"], "at least the first node is honest"),
    ]:
        with pytest.raises(OperatorError, match=line.replace("?", r"\?")):
            cast_of(asked, 4, "modest")


def test_the_command_takes_them_and_refuses_others() -> None:
    words = ["simulate", "--nodes", "5", "--rounds", "2", "--adversary", "scaling:1", "--adversary", "lazy:1"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "adversaries       1 lazy, 1 scaling: 0 caught, 0 expelled, 0 honest expelled" in done.output
    done = CliRunner().invoke(main, ["simulate", "--adversary", "nobody:1"])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1


AUDITED = {"rounds": 30, "audit": {"fraction": 1.0}}  # who aggregates in less may be no liar at all


@pytest.mark.parametrize("kind", ["sign-flip", "false-aggregate", "equivocator"])
def test_audits_expel_a_liar_and_nobody_else(kind: str) -> None:
    report = played(kind, nodes=7, **AUDITED).report
    assert [each.kind for each in report.caught] == [kind]
    assert report.caught[0].evidence
    assert set(report.expelled) == set(report.adversaries)
    assert report.falsely_expelled == report.missed == []


def test_who_flips_labels_in_audits_too_is_out_one_way_or_the_other() -> None:
    """As an auditor it doubts the honest: it may be in quarantine for that before a claim of its own is drawn."""
    report = played("label-flip", nodes=7, **AUDITED).report
    assert [each.kind for each in report.caught] == ["label-flip"]
    assert report.falsely_expelled == report.missed == []


def test_a_lying_auditor_expels_nobody() -> None:
    outcome = played("lying-auditor", nodes=7, **AUDITED)
    assert outcome.finished
    assert outcome.report.falsely_expelled == []


def test_a_lazy_auditor_is_expelled_by_its_commitment() -> None:
    report = played("lazy-auditor", nodes=7, **AUDITED).report
    assert set(report.expelled) == set(report.adversaries)
    assert "voted on another result than it had committed to" in report.caught[0].evidence
    assert report.falsely_expelled == []


def test_two_colluders_do_not_save_each_other() -> None:
    report = played("colluding-auditor", "colluding-auditor", nodes=7, **{**AUDITED, "rounds": 40}).report
    assert set(report.expelled) == set(report.adversaries)
    assert report.falsely_expelled == []
