"""What a signature costs: of 22.7M float32 (a MiniLM's parameters), beside one pass over the same numbers.

The pass is the sum of their absolute values, compiled and fused, on one thread as the signature is. A million values
are hashed beside toploc's proof of as many, in the same run, if toploc is installed. Turns alternate, and every figure
is the least of them: other work on the machine only ever adds. Milliseconds are CPU time of the one thread that works,
which on an idle machine is what a clock shows; on a busy one a clock shows who else was waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
import numba
import numpy as np
from bench.figures import Aim, Findings, environment, tell
from numpy.typing import NDArray
from rich.console import Console

from verify.simhash import signature

Floats = NDArray[np.float32]

LARGE: Final = 22_713_216
MILLION: Final = 1_000_000
SEED: Final = bytes(32)


@numba.njit(nogil=True, fastmath=True)
def absolute_sum(x: Floats) -> np.float32:
    total = np.float32(0)
    for i in range(len(x)):
        total += abs(x[i])
    return total


@numba.njit(nogil=True, fastmath=True)
def absolute_difference(x: Floats, y: Floats) -> np.float32:
    total = np.float32(0)
    for i in range(len(x)):
        total += abs(x[i] - y[i])
    return total


def least(calls: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Milliseconds of each, in turns."""
    found = dict.fromkeys(calls, float("inf"))
    for turn in range(turns + 1):
        for name, call in calls.items():
            began = time.thread_time()
            call()
            if turn:  # the first compiles
                found[name] = min(found[name], 1000 * (time.thread_time() - began))
    return found


def large(turns: int) -> dict[str, float]:
    x, parent = (np.random.default_rng(seed).standard_normal(LARGE).astype(np.float32) for seed in (0, 1))
    calls = {
        "one pass": lambda: absolute_sum(x),
        "numpy's abs().sum()": lambda: np.abs(x).sum(),
        "signature of a vector": lambda: signature(x, SEED),
        "one pass over two vectors": lambda: absolute_difference(x, parent),
        "signature of an update": lambda: signature(x, SEED, parent),
    }
    return least(calls, turns)


def million(turns: int) -> dict[str, float]:
    x = np.random.default_rng(0).standard_normal(MILLION).astype(np.float32)
    calls: dict[str, Callable[[], Any]] = {
        "one pass": lambda: absolute_sum(x),
        "signature": lambda: signature(x, SEED),
    }
    try:
        import toploc
        import torch
    except ImportError:
        return least(calls, turns)
    torch.set_num_threads(1)
    activations = [torch.from_numpy(x).bfloat16().reshape(1, -1)]  # the library takes no float32
    calls["toploc's proof"] = lambda: toploc.build_proofs_bytes(
        activations, decode_batching_size=32, topk=128, skip_prefill=False
    )
    return least(calls, turns)


@click.command(help=__doc__)
@click.option("--turns", default=30, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(turns: int, path: Path | None) -> None:
    where = environment()
    figures = {"22.7M": large(turns), "1M": million(turns)}
    ours, pass_ = figures["22.7M"]["signature of a vector"], figures["22.7M"]["one pass"]
    rows = [(f"{size}: {name}", f"{ms:.2f} ms") for size, found in figures.items() for name, ms in found.items()]
    aims = [
        Aim("signature of 22.7M float32, ms", ours, 8.0),
        Aim("passes over them that it costs", ours / pass_, 3.0),
    ]
    tell(Findings("lsh", rows, {"milliseconds": figures}, aims), where, Console(), path)


if __name__ == "__main__":
    main()
