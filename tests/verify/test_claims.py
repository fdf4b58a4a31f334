"""What two versions must agree on to hold each other to what they claim."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from verify.claims import is_drawn
from verify.digest import digest_of

ROOT = Path(__file__).parents[2]


def test_golden() -> None:
    spec = importlib.util.spec_from_file_location("regenerate_golden", ROOT / "scripts" / "regenerate_golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.claim_vectors() == json.loads((ROOT / "tests" / "golden" / "claims.json").read_text())


def test_the_draw_takes_its_share() -> None:
    beacon = digest_of(b"beacon")
    for fraction in (0.0, 0.04, 0.5, 1.0):
        drawn = sum(is_drawn(beacon, digest_of(f"claim {number}".encode()), fraction) for number in range(2000))
        assert abs(drawn / 2000 - fraction) <= 3 * (fraction * (1 - fraction) / 2000) ** 0.5
