"""Which task a name means, found without importing torch (the daemon checks names, the worker imports them).

A task is one of the built-in names, or `package.module:attribute`. Code comes from the operator's own machine only: a
manifest names a task and the digest of its source, it never carries code.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from typing import Final

from gossipnode.errors import OperatorError
from verify.digest import digest_of

BUILT_IN: Final = {
    "digits": "gossipnode.learn.images:DIGITS",
    "mnist": "gossipnode.learn.images:MNIST",
    "mnist-mlp": "gossipnode.learn.images:MNIST_MLP",
    "sentiment": "gossipnode.learn.tasks.sentiment:HEAD",
    "sentiment-bias": "gossipnode.learn.tasks.sentiment:BIAS",
    "sentiment-lora": "gossipnode.learn.tasks.sentiment:LORA",
}


class TaskError(OperatorError):
    """A task cannot be found, or its data cannot be read. One line that names the remedy."""


def where(spec: str) -> tuple[str, str]:
    """The module and the attribute that `spec` names. Raises TaskError."""
    module, colon, attribute = BUILT_IN.get(spec, spec).partition(":")
    dotted = all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])
    if not colon or not dotted:
        raise TaskError(_unknown(spec))
    return module, attribute


def task_source(spec: str) -> str:
    """Hex BLAKE2b-256 of the source of the module that holds the task; "" if it is built in. Raises TaskError."""
    if spec in BUILT_IN:
        return ""
    module, _ = where(spec)
    search_here()
    try:
        found = importlib.util.find_spec(module)
    except Exception as error:  # finding it imports its parent packages: the operator's code may raise anything
        raise TaskError(f"task {spec!r}: cannot import the parent of {module}: {last_line(error)}") from error
    if found is None:
        raise TaskError(f"task {spec!r}: no module {module} in {_places()}")
    if not found.has_location or found.origin is None or not found.origin.endswith(".py"):
        raise TaskError(f"task {spec!r}: module {module} is not a Python source file, so its source cannot be compared")
    return digest_of(Path(found.origin).read_bytes()).hex()


def search_here() -> None:
    """Look for the operator's modules in the working directory too, last, so that no file there hides a library."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def last_line(error: BaseException) -> str:
    """`KeyError: 'x'`: what the last line of its traceback would say, kept to one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _unknown(spec: str) -> str:
    near = difflib.get_close_matches(spec, BUILT_IN, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown task {spec!r}: {hint}built in are {', '.join(BUILT_IN)}; your own is package.module:attribute"


def _places() -> str:
    return f"{Path.cwd()} or on PYTHONPATH"
