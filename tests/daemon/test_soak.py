"""scripts/soak.py: real nodes live through what it does to them, its verdict can be broken, and no node outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100.0
MARK = "SOAK_OF"  # in the environment of a soak, its nodes and their workers

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


@pytest.fixture(autouse=True)
def scripts_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def run_soak(mark: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "scripts" / "soak.py"), "--task", "digits", "--seed", "3", *options]
    environment = {**os.environ, MARK: str(mark), "TMPDIR": str(mark), "COLUMNS": "120"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def of(mark: Path) -> list[int]:
    """Living processes of that soak."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_short_soak_keeps_every_promise(tmp_path: Path) -> None:
    path = tmp_path / "soak.json"
    options = ("--nodes", "4", "--minutes", "0.3", "--kill-every", "3", "--json", str(path))
    soak = run_soak(tmp_path, *options, "--keep", str(tmp_path / "homes"))
    said, _ = soak.communicate(timeout=PATIENCE_S)
    assert soak.returncode == 0, said
    assert of(tmp_path) == []
    found = json.loads(path.read_text())
    held = {each["promise"]: each["held"] for each in found["checks"]}
    assert [held[promise] for promise in ("every survivor is current", "same model", "rounds keep coming")] == [
        True
    ] * 3
    assert held["memory is flat"] is None  # too short to say
    assert sum(found["faults"].values()) >= 1
    assert len(found["returns"]) == sum(found["faults"].values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_can_be_stopped_at_any_time(tmp_path: Path, number: signal.Signals) -> None:
    soak = run_soak(tmp_path, "--nodes", "3", "--kill-every", "1000", "--keep", str(tmp_path / "homes"))
    deadline = time.monotonic() + PATIENCE_S
    while len(list(tmp_path.glob("homes/*/manifest.toml"))) < 3:
        assert soak.poll() is None, soak.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    frozen = json.loads((tmp_path / "homes" / "node-2" / "addresses.json").read_text())["pid"]
    os.kill(frozen, signal.SIGSTOP)  # it cannot say goodbye
    soak.send_signal(number)
    said, _ = soak.communicate(timeout=PATIENCE_S)
    assert number == signal.SIGKILL or "verdict" in said
    while of(tmp_path):
        assert time.monotonic() < deadline, of(tmp_path)
        time.sleep(0.05)


# -- the verdict ------------------------------------------------------------------------------------------------------


def held(promise: str, **seen: Any) -> bool | None:  # noqa: ANN401 - fields of Seen, each of its own type
    from bench.verdict import Seen, checks

    lags = seen.pop("lags", {"a": 0, "b": 1})
    tracebacks = seen.pop("tracebacks", [])
    found = checks(Seen(**{"highest": 9, **seen}), lags, tracebacks, pause_s=60.0, lasted_s=600.0)
    return next(each.held for each in found if each.promise == promise)


def samples(gain: float, lives: int = 2) -> list[Any]:
    """Of one node that is restarted in mid-course; MiB gained a minute."""
    from bench.member import Sample

    ages = [5.0 * step for step in range(10, 60)]
    return [
        Sample("a", life, 500.0, age, 100 + gain * age / 60, 0, 30, 9, 32.0) for life in range(lives) for age in ages
    ]


def test_what_a_verdict_holds_against_whom() -> None:
    from bench.verdict import Return

    assert held("every survivor is current") is True
    assert held("every survivor is current", lags={"a": 0, "b": 3}) is False
    assert held("rounds keep coming", pause_s=59.0) is True
    assert held("rounds keep coming", pause_s=61.0) is False
    assert held("rounds keep coming", highest=0) is False
    assert held("same model", digests={8: {"a": "x", "b": "x"}}) is True
    assert held("same model", digests={7: {"a": "x", "b": "x"}, 8: {"a": "x", "b": "y"}}) is False
    assert held("same model", digests={8: {"a": "x"}}) is None
    assert held("no traceback", tracebacks=["a"]) is False
    assert held("no offences among the honest", offences={"b: flood"}) is False
    assert held("nothing else broke", findings=["b ended"]) is False
    assert held("whoever returns catches up", returns=[Return("a", "kill", 3, 60.0, 2.0)]) is True
    assert held("whoever returns catches up", returns=[Return("a", "kill", 4, 60.0, 2.0)]) is False


def test_growth_is_seen_through_restarts() -> None:
    assert held("memory is flat", samples=samples(0.1)) is True
    assert held("memory is flat", samples=samples(2.0)) is False
    assert held("memory is flat", samples=samples(2.0, lives=1)) is None  # too few to say
    assert held("descriptors is flat", samples=samples(2.0)) is True


def test_pauses_are_measured_from_round_to_round() -> None:
    from bench.verdict import Seen

    seen = Seen()
    seen.advanced(1, 10.0, "")
    seen.advanced(2, 12.0, "")
    seen.advanced(2, 40.0, "b freeze")
    seen.advanced(3, 41.0, "b freeze")
    assert (seen.pause_s, seen.pause_at, seen.pause_why) == (29.0, 12.0, "b freeze")


def test_faults_are_the_seeds_and_leave_room() -> None:
    import random

    from bench.faults import draw

    members: list[Any] = list(range(6))
    draws = [draw(random.Random(seed), members, 2) for seed in range(50)]
    assert draws == [draw(random.Random(seed), members, 2) for seed in range(50)]
    assert {each.kind for each in draws if each} == {
        "kill",
        "freeze",
        "kill worker",
        "goodbye",
        "kill two",
        "kill at checkpoint",
    }
    assert all(len(each.victims) == len(set(each.victims)) == len(each.seconds) for each in draws if each)
    assert all(len(each.victims) == 1 for seed in range(50) if (each := draw(random.Random(seed), members, 1)))
    assert draw(random.Random(1), members, 0) is None
    assert draw(random.Random(1), [], 2) is None
