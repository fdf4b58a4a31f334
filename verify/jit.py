"""Compilation, where numba is installed: `jit` is numba's, and otherwise leaves a function as it is.

What numba compiles it keeps on disk (half a megabyte): in the folder named by `cache_in`, else beside the source or,
if that is read-only, in the user's own cache. Where none can be written, each process compiles anew (4 s). That cache
is code: whoever can write to the folder can run what he likes as this user.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

COMPILES: Final = importlib.util.find_spec("numba") is not None and sys.byteorder == "little"
_compiled_here: set[str] = set()  # modules


def jit(function: AnyFunction) -> AnyFunction:
    """Compiled at its first call for the types it gets, and run without the interpreter's lock."""
    if not COMPILES:
        return function
    import numba

    _compiled_here.add(function.__module__)
    try:
        compiled = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder for a cache can be written
        compiled = numba.njit(nogil=True)(function)
    return cast("AnyFunction", compiled)


def cache_in(folder: Path) -> None:
    """Before any module with kernels is imported."""
    assert not _compiled_here
    if COMPILES:
        from numba.core import config

        config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]  # numba makes its settings at run time
