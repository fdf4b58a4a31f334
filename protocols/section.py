"""A table of the manifest. It stands by itself so that each protocol can keep its own table beside its rules."""

from __future__ import annotations

import msgspec


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are errors: a typo must not silently mean the default."""
