"""Files people edit: one-line errors with file and key, comments from the descriptions, and signed manifests."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from gossipnode.errors import OperatorError
from gossipnode.toml import annotated, described, load, load_draft, load_manifest, manifest_text, save_manifest
from protocols.amendments import amend, present, sign
from protocols.manifest import Manifest
from protocols.signatures import Signer

AUTHOR = Signer.from_seed(bytes(32))
MANIFEST = Manifest(
    name='a "run" \\ é', protocol="modest", task="digits", author=AUTHOR.peer, theta0="ab" * 32, model_bytes=1000
)
SIGNED = sign(MANIFEST, AUTHOR)
AMENDED = amend(
    amend(SIGNED, {"training.lr": 0.5, "rounds": 10}, AUTHOR),
    {"admission.mode": "allow", "admission.allow": (AUTHOR.peer,)},
    AUTHOR,
)


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What lies inside."""

    rate: Annotated[float, Meta(gt=0.0, description="the rate")] = 0.5


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    text: Annotated[str, Meta(description="some text")] = ""
    flag: bool = False
    names: tuple[str, ...] = ()
    count: int = 0
    inner: Inner = Inner()


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(OperatorError) as caught:
        load(path, Outer)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[inner]\nrate = 0.0", "inner.rate: expected float > 0.0"),
        ("[inner]\nrate = 'x'", "inner.rate: expected float, got str"),
        ("[inner]\nrte = 1.0", "unknown key `inner.rte`; did you mean `inner.rate`?"),
        ("cuont = 1", "unknown key `cuont`; did you mean `count`?"),
        ("zzzzzz = 1", "unknown key `zzzzzz`"),
        ("rate = 1.0", "unknown key `rate`; did you mean `inner.rate`?"),
        ("inner = 1", "inner: expected object, got int"),
        ("names = ['a', 1]", "names[1]: expected str, got int"),
    ],
)
def test_one_line_names_file_and_key(tmp_path: Path, text: str, line: str) -> None:
    assert refusal(tmp_path / "file.toml", text) == line


def test_what_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    assert "is not TOML: " in refusal(path, "a = ")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OperatorError, match="is not TOML"):
        load(path, Outer)
    path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(OperatorError, match="is longer than"):
        load(path, Outer)
    with pytest.raises(OperatorError, match=r"cannot read .*absent"):
        load(tmp_path / "absent", Outer)
    with pytest.raises(OperatorError, match="Is a directory"):
        load(tmp_path, Outer)


def test_comments_are_the_descriptions() -> None:
    assert annotated(Outer()).splitlines() == [
        "# some text",
        'text = ""',
        "flag = false",
        "names = []",
        "count = 0",
        "",
        "# What lies inside.",
        "[inner]",
        "# the rate",
        "rate = 0.5",
    ]
    assert described(Outer)["inner.rate"] == "the rate"


@given(
    st.builds(
        Outer,
        text=st.text(),
        flag=st.booleans(),
        names=st.lists(st.text()).map(tuple),
        count=st.integers(-(2**63), 2**63 - 1),
        inner=st.builds(Inner, rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False)),
    )
)
def test_what_is_written_reads_back_the_same(value: Outer) -> None:
    assert msgspec.convert(tomllib.loads(annotated(value)), Outer) == value


@pytest.mark.parametrize("signed", [SIGNED, AMENDED], ids=["plain", "amended"])
def test_a_saved_manifest_loads_the_same(tmp_path: Path, signed: object) -> None:
    path = tmp_path / "manifest.toml"
    assert signed in (SIGNED, AMENDED)
    save_manifest(path, signed)  # type: ignore[arg-type]  # one of the two above
    assert load_manifest(path) == signed


def test_the_file_tells_people_what_is_in_it() -> None:
    text = manifest_text(AMENDED)
    assert SIGNED.run.hex() in text
    assert "# learning rate\nlr = 0.05\n" in text
    assert '"training.lr" = 0.5' in text
    assert max(map(len, text.splitlines())) <= 160


def edited(path: Path, before: str, after: str) -> str:
    save_manifest(path, AMENDED)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(OperatorError) as caught:
        load_manifest(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("lr = 0.05", "lr = 0.06", "no longer matches its author's signature (manifest is not signed by its author)"),
        ('"rounds" = 10', '"rounds" = 11', "no longer matches its author's signature (amendment 1 is not signed"),
        ("number = 2", "number = 3", "no longer matches its author's signature (amendment 2 does not follow"),
        ('signature = "', 'signature = "zz', "no longer matches its author's signature"),
        ("lr = 0.05", "lr = -1", "training.lr: expected float > 0.0"),
        ("momentum = ", "momentm = ", "unknown key `training.momentm`; did you mean `training.momentum`?"),
        ("[signed]\n", "[singed]\n", "signed: object missing required field signature"),
        ("number = 2", "nmber = 2", "signed.amendments[1]: object "),
    ],
)
def test_an_edited_manifest_is_refused_in_one_line(tmp_path: Path, before: str, after: str, line: str) -> None:
    text = edited(tmp_path / "manifest.toml", before, after)
    assert "\n" not in text
    assert line in text or text.startswith(line)


def test_an_unsigned_manifest_says_so(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(annotated(MANIFEST))
    with pytest.raises(OperatorError, match="not signed by its author"):
        load_manifest(path)


def test_comments_and_order_are_free(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    text = manifest_text(SIGNED)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    lines[0:2] = reversed(lines[0:2])
    path.write_text("# mine\n" + "\n".join(lines).replace("momentum = 0.9", "momentum = 0.90  # same"))
    assert load_manifest(path) == SIGNED


def test_a_draft_is_completed_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "draft.toml"
    path.write_text('name = "n"\nprotocol = "modest"\ntask = "digits"\n[training]\nlr = 1\n')
    known = {"author": AUTHOR.peer, "theta0": "ab" * 32, "model_bytes": 5}
    draft = load_draft(path, **known)
    assert draft.training.lr == 1.0
    assert present(sign(draft, AUTHOR)) == draft
    with pytest.raises(OperatorError, match="missing required field author"):
        load_draft(path)
    path.write_text('name = "n"\nprotocol = "modest"\ntask = "digits"\n[modest]\ntrainers = 1\naggregators = 2\n')
    with pytest.raises(OperatorError, match=r"modest.aggregators: 2 are more than the 1 trainers"):
        load_draft(path, **known)
