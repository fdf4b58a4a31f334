"""TOML files a person may edit, and the struct each becomes: a node's config, a run's manifest with its signature.

One mechanism for both: unknown keys are errors that name the nearest known one, wrong values are one line with file and
dotted key, and what is written carries each field's description as a comment. A manifest file is the signed manifest
itself in readable form: tables, then `[signed]` with the author's signature and the amendments. Reading it rebuilds the
canonical bytes and checks them, so an edited value shows as a signature that no longer matches.
"""

from __future__ import annotations

import difflib
import json
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from gossipnode.errors import OperatorError, reason
from gossipnode.files import write_whole
from protocols.amendments import Amendment, SignedManifest, Value, open_signed, present
from protocols.limits import MANIFEST_BYTES
from protocols.manifest import BadManifest, Manifest, canonical, open_manifest, plain, validated
from protocols.section import Section

T = TypeVar("T", bound=msgspec.Struct)

_FILE_BYTES: Final = 16 * MANIFEST_BYTES  # hex and comments make a manifest some three times as long
_WIDTH: Final = 100


class _SignedTable(Section, frozen=True, kw_only=True):
    """Signatures and digests in hex."""

    signature: str
    amendments: tuple[_AmendmentTable, ...] = ()


class _AmendmentTable(Section, frozen=True, kw_only=True):
    number: int
    previous: str
    signature: str
    changes: dict[str, Value]


# -- reading ----------------------------------------------------------------------------------------------------------


def read_tables(path: Path) -> dict[str, Any]:
    """Raises OperatorError."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {reason(error)}") from error
    if len(data) > _FILE_BYTES:
        raise OperatorError(f"{path} is longer than {_FILE_BYTES} bytes; is it the right file?")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: TOML's, and text that is not UTF-8
        raise OperatorError(f"{path} is not TOML: {error}") from error


def load(path: Path, kind: type[T]) -> T:
    """A file as a struct. Raises OperatorError: `FILE: training.lr: expected float > 0.0`."""
    return typed(read_tables(path), kind, str(path))


def typed(tables: Mapping[str, Any], kind: type[T], source: str) -> T:
    """`source` names the file, or what else the values came from, in errors."""
    require_known(tables, kind, source)
    try:
        return msgspec.convert(tables, kind)
    except msgspec.ValidationError as error:
        raise OperatorError(f"{source}: {plain(error)}") from error


def require_known(tables: Mapping[str, Any], kind: type[msgspec.Struct], source: str) -> None:
    """Raises OperatorError for the first key that `kind` does not have, naming the nearest that it has."""
    known = described(kind)
    for key in _keys(tables, kind):
        if key not in known:
            raise OperatorError(f"{source}: unknown key `{key}`{_hint(key, known)}")


def _hint(key: str, known: Mapping[str, str]) -> str:
    """A key right but for its table comes first, then the most alike."""
    elsewhere = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    near = elsewhere or difflib.get_close_matches(key, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Description of every field by dotted key, nested tables too, in order."""
    descriptions = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name not in kind.__struct_fields__:
            continue
        if _is_table(hint):
            descriptions[name] = (hint.__doc__ or "").strip()
            descriptions |= {f"{name}.{key}": text for key, text in described(hint).items()}
        else:
            descriptions[name] = _description(hint)
    return descriptions


def _keys(tables: Mapping[str, Any], kind: type[msgspec.Struct]) -> Iterator[str]:
    hints = get_type_hints(kind)
    for name, value in tables.items():
        yield name
        if isinstance(value, dict) and _is_table(hints.get(name)):
            yield from (f"{name}.{key}" for key in _keys(value, hints[name]))


def _is_table(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _description(hint: object) -> str:
    metas = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((meta.description for meta in metas if isinstance(meta, msgspec.Meta) and meta.description), "")


# -- writing ----------------------------------------------------------------------------------------------------------


def annotated(value: msgspec.Struct) -> str:
    """TOML with every field, its description before it; `load` gives the same struct back."""
    return "\n".join(_lines(msgspec.to_builtins(value), type(value), "")) + "\n"


def _lines(tables: Mapping[str, Any], kind: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    hints = get_type_hints(kind, include_extras=True)
    nested = [name for name in tables if _is_table(hints[name])]
    for name in tables:
        if name not in nested:
            yield from _comment(_description(hints[name]))
            yield f"{name} = {_literal(tables[name])}"
    for name in nested:
        yield ""
        yield from _comment(hints[name].__doc__ or "")
        yield f"[{prefix}{name}]"
        yield from _lines(tables[name], hints[name], f"{prefix}{name}.")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), _WIDTH)]


def _literal(value: Any) -> str:  # noqa: ANN401 - a builtin of any of TOML's types
    if isinstance(value, list | tuple):
        items = [_literal(item) for item in value]
        line = f"[{', '.join(items)}]"
        return line if len(line) <= _WIDTH else "[\n" + "".join(f"  {item},\n" for item in items) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's basic strings, DEL apart
    return str(value).lower() if isinstance(value, bool) else repr(value)


# -- the manifest -----------------------------------------------------------------------------------------------------


def load_draft(path: Path, **missing: object) -> Manifest:
    """A manifest that its author has not signed yet; `missing` fills in what it left out (author, theta0...)."""
    tables = read_tables(path)
    require_known(tables, Manifest, str(path))
    try:
        return validated({**missing, **tables})
    except BadManifest as error:
        raise OperatorError(f"{path}: {error}") from error


def save_manifest(path: Path, signed: SignedManifest) -> None:
    """Raises OperatorError; the file is then what it was."""
    try:
        write_whole(path, manifest_text(signed).encode())
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {reason(error)}") from error


def manifest_text(signed: SignedManifest) -> str:
    count = len(signed.amendments)
    head = f"Run {signed.run.hex()}. Signed by its author: a file that was edited is refused. " + (
        f"What the {count} amendment{'s' * (count > 1)} at the end changed is shown there, not in the tables above."
        if count
        else "Only the author can change a run, by an amendment."
    )
    first = annotated(open_manifest(signed.manifest))
    signature = f"[signed]\nsignature = {_literal(signed.signature.hex())}\n"
    return "\n".join([*_comment(head), "", first, signature, *map(_amendment_text, signed.amendments)])


def _amendment_text(amendment: Amendment) -> str:
    changes = "".join(f"{_literal(key)} = {_literal(value)}\n" for key, value in sorted(amendment.changes.items()))
    return (
        f"[[signed.amendments]]\nnumber = {amendment.number}\nprevious = {_literal(amendment.previous.hex())}\n"
        f"signature = {_literal(amendment.signature.hex())}\n[signed.amendments.changes]\n{changes}"
    )


def load_manifest(path: Path) -> SignedManifest:
    """A file of `save_manifest`, all its signatures checked. Raises OperatorError."""
    tables = read_tables(path)
    if "signed" not in tables:
        raise OperatorError(f"{path}: not signed by its author: the table [signed] is missing")
    signed = typed({"signed": tables.pop("signed")}, _Signed, str(path)).signed
    require_known(tables, Manifest, str(path))
    try:
        first = SignedManifest(canonical(validated(tables)), _bytes(signed.signature), _amendments(signed))
        return open_signed(first.encode())
    except BadManifest as error:
        raise OperatorError(f"{path}: {_explained(str(error))}") from error


def present_in(path: Path) -> Manifest:
    """The manifest in force, of a signed file. Raises OperatorError."""
    return present(load_manifest(path))


class _Signed(Section, frozen=True, kw_only=True):
    signed: _SignedTable


def _amendments(signed: _SignedTable) -> tuple[Amendment, ...]:
    return tuple(
        Amendment(table.number, _bytes(table.previous), table.changes, _bytes(table.signature))
        for table in signed.amendments
    )


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""  # no valid signature or digest; open_signed then says which


def _explained(fault: str) -> str:
    if "not signed by" not in fault and "does not follow" not in fault:
        return fault
    return f"no longer matches its author's signature ({fault}); restore it, or remove it and fetch it from a peer"
