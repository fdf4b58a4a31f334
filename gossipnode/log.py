"""Log lines: one event, one line, on stderr: time (UTC), level, the logger's short name, message.

It decides what an operator sees of an exception. A peer's fault (a TransportError, an Unfit model, anything a library
logs about its sockets) is one line, whoever logs it and however; an exception of our own is shown in full, because it
is a bug. Invariant: a record without a traceback is exactly one line, and no control character is ever printed, so
nothing that a peer sends can forge a line or drive a terminal.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

from gossipnode.errors import OperatorError
from protocols.learner import LearnerError, Unfit
from protocols.transport import TransportError

LEVELS: Final = ("debug", "info", "warning", "error")
OURS: Final = frozenset({"gossipnode", "protocols", "verify", "sampling", "root", "__main__"})
EXPECTED: Final = (TransportError, Unfit, LearnerError, OperatorError)  # their text says it all
QUIET: Final = frozenset({"libp2p", "multiaddr", "hypercorn"})  # log peers' faults at any level: shown with debug only
MESSAGE_CHARS: Final = 4000  # a peer cannot fill the disk with one line


def printable(text: str) -> str:
    text = text[:MESSAGE_CHARS].replace("\n", " | ")
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def top(name: str) -> str:
    return name.partition(".")[0]


def short(name: str) -> str:
    """`protocols.modest` -> `modest`; others' loggers keep their first word: `libp2p.network` -> `libp2p`."""
    return name.rpartition(".")[2] if top(name) in OURS else top(name)


def error_of(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def is_bug(record: logging.LogRecord) -> bool:
    """Ours, and not of a kind that is expected. A group is expected if everything in it is."""
    error = error_of(record)
    if error is None or top(record.name) not in OURS:
        return False
    rest = error.split(EXPECTED)[1] if isinstance(error, BaseExceptionGroup) else error
    return rest is not None and not isinstance(rest, EXPECTED)


def first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def message_of(record: logging.LogRecord) -> str:
    """The message, and the error's own line if that is all to be said of it."""
    text, error = record.getMessage(), error_of(record)
    if error is not None and not is_bug(record):
        cause = first_cause(error)
        text = f"{text}: {str(cause) or type(cause).__name__}"
    return printable(text)


def trace_of(record: logging.LogRecord) -> str | None:
    error = error_of(record)
    if error is None or not is_bug(record):
        return None
    lines = "".join(traceback.format_exception(error)).rstrip().split("\n")
    return "\n".join(printable(line) for line in lines)


def time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z info    modest       round 7 done`, and the traceback below if it is a bug."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        line = f"{time_of(record)} {level:<7} {short(record.name):<12} {message_of(record)}"
        trace = trace_of(record)
        return f"{line}\n{trace}" if trace else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `trace` only for a bug."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
        }
        if trace := trace_of(record):
            event["trace"] = trace
        return msgspec.json.encode(event).decode()


def heard(record: logging.LogRecord) -> bool:
    return top(record.name) not in QUIET


def set_up_log(level: str = "info", *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Replaces whatever the root logger did. Raises OperatorError for an unknown level."""
    if level not in LEVELS:
        raise OperatorError(f"--log-level wants one of {', '.join(LEVELS)}, not {level!r}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    if level != "debug":
        handler.addFilter(heard)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
