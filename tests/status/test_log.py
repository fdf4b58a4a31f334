"""Log lines: one a record, printable; tracebacks for our own bugs only."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from gossipnode.errors import OperatorError
from gossipnode.log import set_up_log
from protocols.learner import Unfit
from protocols.transport import NoAnswer

SetUp = Callable[..., io.StringIO]


@pytest.fixture
def set_up() -> Iterator[SetUp]:
    """Sets the log up over a buffer, and puts the root logger back afterwards."""
    root, theirs = logging.getLogger(), logging.getLogger("libp2p")
    before = root.handlers, root.level
    quietened = theirs.handlers[:], theirs.propagate  # by a transport that an earlier test of this process has opened
    theirs.handlers, theirs.propagate = [], True

    def over_buffer(level: str = "info", *, as_json: bool = False) -> io.StringIO:
        buffer = io.StringIO()
        set_up_log(level, as_json=as_json, stream=buffer)
        return buffer

    yield over_buffer
    root.handlers, _ = before
    theirs.handlers, theirs.propagate = quietened
    root.setLevel(before[1])
    logging.captureWarnings(capture=False)


def test_a_line_holds_time_level_short_name_and_message(set_up: SetUp) -> None:
    out = set_up()
    logging.getLogger("protocols.modest").info("round %d done", 7)
    stamp, level, name, message = out.getvalue().rstrip("\n").split(maxsplit=3)
    assert (stamp[10], stamp[-1], level, name, message) == ("T", "Z", "info", "modest", "round 7 done")


def test_text_of_peers_cannot_forge_lines_or_drive_the_terminal(set_up: SetUp) -> None:
    out = set_up()
    logging.getLogger("gossipnode.node").info("peer says %s", "a\nerror b\x1b[2J\r" + "x" * 100_000)
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()
    assert len(out.getvalue()) < 5000


@pytest.mark.parametrize(
    "error",
    [NoAnswer("peer broke off"), Unfit("peer broke off"), ExceptionGroup("g", [NoAnswer("peer broke off")])],
)
def test_a_fault_of_a_peer_is_one_line_even_when_logged_as_an_exception(set_up: SetUp, error: Exception) -> None:
    out = set_up()
    logging.getLogger("gossipnode.node").error("fetch failed", exc_info=error)
    assert out.getvalue().endswith("fetch failed: peer broke off\n")
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    "error", [ValueError("ours\x1b[2J"), ExceptionGroup("g", [NoAnswer("theirs"), KeyError("ours")])]
)
def test_a_bug_of_ours_is_shown_in_full(set_up: SetUp, error: Exception) -> None:
    out = set_up()
    try:
        raise error
    except type(error):
        logging.getLogger("gossipnode.node").exception("unexpected")
    assert "Traceback" in out.getvalue()
    assert "test_log.py" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_other_libraries_get_no_tracebacks_and_libp2ps_are_heard_in_debug_only(set_up: SetUp) -> None:
    out = set_up()
    logging.getLogger("trio.serve_listeners").error("accept failed", exc_info=OSError("too many open files"))
    logging.getLogger("multiaddr.codec").error("stream reset", exc_info=ValueError("garbage"))
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("accept failed: too many open files\n")
    out = set_up("debug")
    logging.getLogger("multiaddr.codec").error("stream reset", exc_info=ValueError("garbage"))
    assert out.getvalue().endswith("multiaddr    stream reset: garbage\n")


def test_json_lines(set_up: SetUp) -> None:
    out = set_up(as_json=True)
    logging.getLogger("gossipnode.net.libp2p").warning('a "quoted"\nthing')
    logging.getLogger("gossipnode.node").error("bug", exc_info=KeyError("ours"))
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert first["message"] == 'a "quoted" | thing'
    assert (first["level"], first["logger"]) == ("warning", "gossipnode.net.libp2p")
    assert "trace" not in first
    assert "KeyError" in second["trace"]


def test_level_filters_and_unknown_levels_are_refused(set_up: SetUp) -> None:
    out = set_up("warning")
    logging.getLogger("gossipnode.node").info("not shown")
    assert not out.getvalue()
    with pytest.raises(OperatorError, match="--log-level"):
        set_up("loud")
