"""Two versions, and two machines, must agree on these to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verify.digest import digest_of
from verify.jit import COMPILES
from verify.simhash import Sketch
from verify.tokens import digest_of_tokens

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden" / "lsh.json").read_text())


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.skipif(not COMPILES, reason="numba"))]
)
@pytest.mark.parametrize("case", GOLDEN["signatures"], ids=lambda case: f"{case['length']}-{case['seed']}")
def test_signatures(case: dict[str, Any], compiled: bool) -> None:
    index = np.arange(case["length"], dtype=np.int64)
    whole = (40503 * index**2 + 977 * index) % 65521 - 32760
    sketch = Sketch(digest_of(f"gossipnode golden {case['seed']}".encode()), compiled=compiled)
    sketch.add(np.ldexp(whole.astype(np.float32), case["exponent"]))
    assert bytes(sketch.signature()).hex() == case["signature"]


@pytest.mark.parametrize("case", GOLDEN["tokens"], ids=lambda case: str(len(case["tokens"])))
def test_tokens(case: dict[str, Any]) -> None:
    assert digest_of_tokens(case["tokens"]).hex() == case["digest"]
