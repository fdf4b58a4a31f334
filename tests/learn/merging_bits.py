"""What every rule makes of fixed models, as digests. As a script it prints them, for another CPU."""

from __future__ import annotations

import json

import numpy as np

from gossipnode.learn.adapters import pairs
from gossipnode.learn.encoding import Vector
from gossipnode.learn.merge import Shape, by_rule, merged
from gossipnode.learn.models import Models
from protocols.merging import Merging
from verify.digest import digest_of

STANDING = ("median", "trimmed-mean", "multi-krum", "geometric-median", "centred-clipping", "flag")


def fixed(rows: int, length: int) -> Vector:
    """Numbers in -1 .. 1 from integers alone, a third of the models far off, one the same as another."""
    index = np.arange(rows * length, dtype=np.uint64).reshape(rows, length)
    mixed = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    values = (mixed % np.uint64(2**21)).astype(np.float32) / np.float32(2**20) - np.float32(1)
    values[: rows // 3] *= np.float32(1000)
    values[-1] = values[-(rows > 1) - 1]
    return values


def digests(rows: int = 9, length: int = 40_007) -> dict[str, str]:
    models, parent = Models.of(fixed(rows, length)), fixed(1, length)[0]
    found = {}
    for rule in STANDING:
        for mixing in (False, True):
            result = by_rule(models, rule, 3, mixing, parent)
            found[rule + (" after mixing" if mixing else "")] = digest_of(result.tobytes()).hex()
    weights = list(range(1, rows + 1))
    for rule in ("mean", "corrected"):
        merging = Merging(rule=rule)  # type: ignore[arg-type]  # one of its names
        result = merged(models, weights, merging, Shape((length - 7, 7), length))
        found[rule] = digest_of(result.tobytes()).hex()
    [pair] = pairs([("x.down", (5, 41)), ("x.up", (17, 5))])
    small = Models.of(fixed(rows, 5 * (41 + 17) + 3))
    result = merged(small, weights, Merging(rule="flora"), Shape((205, 85, 3), small.d, [pair]))
    found["flora"] = digest_of(result.tobytes()).hex()
    return found


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
