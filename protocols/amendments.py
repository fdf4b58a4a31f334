"""How a manifest travels: its canonical bytes, its author's signature, and the chain of what the author changed since.

Each amendment names its number and the digest of what it amends (the run id first, then the amendment before it), so
the chain has one order and no gaps. Only what a run can change under way may be amended: never what makes it this run
(task, seed, theta0, protocol, encoding, author, name). Every manifest along the chain is valid. The run id is the first
one's. Whoever opens the same bytes gets the same manifest or the same refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from protocols import limits
from protocols.manifest import (
    BadManifest,
    Manifest,
    canonical,
    open_manifest,
    plain,
    run_id,
    validated,
)
from protocols.section import Section
from protocols.signatures import Signer, verify
from verify.digest import digest_of

MANIFEST_DOMAIN: Final = b"gossipnode manifest"
AMENDMENT_DOMAIN: Final = b"gossipnode amendment"
AMENDABLE: Final = frozenset(
    {"rounds", "start_peers"}
    | {
        f"{table.name}.{field.name}"
        for table in msgspec.structs.fields(Manifest)
        # What a block of one-byte steps means may never depend on who has heard of an amendment.
        if isinstance(table.type, type) and issubclass(table.type, Section) and table.name != "onebyte"
        for field in msgspec.structs.fields(table.type)
    }
)

Value = bool | int | float | str | tuple[str, ...]


class Amendment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`changes` by dotted key, as `training.lr`. `previous`: digest of what is amended; `number` counts from 1."""

    number: int
    previous: bytes
    changes: dict[str, Value]
    signature: bytes

    def signed_bytes(self) -> bytes:
        return _encode((self.number, self.previous, self.changes))


class SignedManifest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`manifest`: the first one's canonical bytes. Made by `sign`, `amend` and `open_signed` only, so always valid."""

    manifest: bytes
    signature: bytes
    amendments: tuple[Amendment, ...] = ()

    @property
    def run(self) -> bytes:
        return digest_of(self.manifest)

    def encode(self) -> bytes:
        """What travels and is kept; `open_signed` reads it."""
        return _encode(self)


def sign(manifest: Manifest, signer: Signer) -> SignedManifest:
    """Raises BadManifest unless the manifest is valid and the signer its author."""
    _require_author(manifest, signer)
    data = canonical(manifest)
    return open_signed(SignedManifest(data, signer.sign(MANIFEST_DOMAIN, run_id(manifest), data)).encode())


def amend(signed: SignedManifest, changes: Mapping[str, Value], signer: Signer) -> SignedManifest:
    """Raises BadManifest unless every change is allowed, valid in what it gives, and the signer the author."""
    _require_author(present(signed), signer)
    draft = Amendment(len(signed.amendments) + 1, _tip(signed), dict(changes), b"")
    amendment = msgspec.structs.replace(
        draft, signature=signer.sign(AMENDMENT_DOMAIN, signed.run, draft.signed_bytes())
    )
    return open_signed(msgspec.structs.replace(signed, amendments=(*signed.amendments, amendment)).encode())


def open_signed(data: bytes) -> SignedManifest:
    """`data` may be hostile. Raises BadManifest and nothing else."""
    _require_size(data)
    try:
        signed = msgspec.msgpack.decode(data, type=SignedManifest)
    except msgspec.ValidationError as error:
        raise BadManifest(f"signed manifest: {plain(error)}") from error
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own, and text that is not UTF-8
        raise BadManifest(f"signed manifest is not msgpack: {error}") from error
    manifest = open_manifest(signed.manifest)
    if not verify(manifest.author, MANIFEST_DOMAIN, signed.run, signed.manifest, signed.signature):
        raise BadManifest("manifest is not signed by its author")
    _follow(signed, manifest)
    if signed.encode() != data:
        raise BadManifest("signed manifest is not in canonical form")
    return signed


def present(signed: SignedManifest) -> Manifest:
    """The manifest as its amendments leave it."""
    manifest = open_manifest(signed.manifest)
    for amendment in signed.amendments:
        manifest = _amended(manifest, amendment)
    return manifest


def later(one: SignedManifest, other: SignedManifest) -> SignedManifest:
    """Which of two chains of one run every peer keeps: the longer, and of two equally long the one of lower tip.

    Two different amendments of one number are the author's contradiction; all peers still end with the same one.
    """
    assert one.run == other.run
    return min(one, other, key=lambda signed: (-len(signed.amendments), _tip(signed), signed.encode()))


def _follow(signed: SignedManifest, manifest: Manifest) -> None:
    """Check the chain from the first manifest on."""
    if len(signed.amendments) > limits.AMENDMENTS:
        raise BadManifest(f"{len(signed.amendments)} amendments; at most {limits.AMENDMENTS} are allowed")
    tip, author = signed.run, manifest.author
    for number, amendment in enumerate(signed.amendments, start=1):
        data = amendment.signed_bytes()
        if amendment.number != number or amendment.previous != tip:
            raise BadManifest(f"amendment {number} does not follow from what is before it")
        if not verify(author, AMENDMENT_DOMAIN, signed.run, data, amendment.signature):
            raise BadManifest(f"amendment {number} is not signed by the author")
        manifest = _amended(manifest, amendment)
        tip = digest_of(data)


def _amended(manifest: Manifest, amendment: Amendment) -> Manifest:
    tables: dict[str, Any] = msgspec.to_builtins(manifest)
    if not amendment.changes:
        raise BadManifest(f"amendment {amendment.number} changes nothing")
    for key, value in amendment.changes.items():
        if key not in AMENDABLE:
            raise BadManifest(f"amendment {amendment.number}: {key[:60]!a} cannot be amended")
        table, _, field = key.rpartition(".")
        (tables[table] if table else tables)[field] = value
    try:
        return validated(tables)
    except BadManifest as error:
        raise BadManifest(f"amendment {amendment.number}: {error}") from error


def _tip(signed: SignedManifest) -> bytes:
    return digest_of(signed.amendments[-1].signed_bytes()) if signed.amendments else signed.run


def _require_author(manifest: Manifest, signer: Signer) -> None:
    if manifest.author != signer.peer:
        raise BadManifest(f"author: the manifest names {manifest.author[:60]}, the key at hand is {signer.peer}")


def _require_size(data: bytes) -> None:
    if len(data) > limits.MANIFEST_BYTES:
        raise BadManifest(f"signed manifest of {len(data)} bytes; at most {limits.MANIFEST_BYTES} are allowed")


def _encode(value: object) -> bytes:
    """Canonical: the keys of `changes` in order."""
    return msgspec.msgpack.encode(value, order="deterministic")
