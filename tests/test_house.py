"""The house rules that a command can see, each as a test: sizes, words, imports, and that the papers match the tree."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gossipnode", "protocols", "sampling", "verify")
SOURCES = sorted(path for folder in (*PACKAGES, "scripts") for path in (ROOT / folder).rglob("*.py"))
FILE_LINES = 400
FUNCTION_LINES = 60

# What each floor may import beside the standard library and the floors below it.
THIRD_PARTIES = {"sampling": {"trio"}, "verify": {"numpy", "numba"}}

# Spelt in two halves, so that this file does not trip over itself.
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|place" + r"holder)\b", re.IGNORECASE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name)


def output_of(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_ours(package: str) -> None:
    # A distribution called `verify` exists; installed by accident, it must not be what we import.
    assert importlib.import_module(package).__file__ == str(ROOT / package / "__init__.py")


def test_no_package_below_tests() -> None:
    # tests/protocols/__init__.py would shadow the real protocols.
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@each(SOURCES)
def test_source_is_small_and_finished(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES
    assert UNFINISHED.findall(text) == []
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES]
    assert long == []


@each([path for path in SOURCES if path.name == "__init__.py"])
def test_package_files_hold_a_docstring_only(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {whole.partition(".")[0] for whole in plain} | {
        (node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)
    }


@each([path for path in SOURCES if path.relative_to(ROOT).parts[0] in THIRD_PARTIES])
def test_lower_floors_need_little(path: Path) -> None:
    allowed = THIRD_PARTIES[path.relative_to(ROOT).parts[0]]
    assert imported(path) - sys.stdlib_module_names - set(PACKAGES) <= allowed


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded once a fresh interpreter has run the statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(output_of(sys.executable, "-c", code).split())


@pytest.mark.parametrize("module", ["torch", "libp2p"])
def test_the_lower_floors_load_neither_torch_nor_libp2p(module: str) -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES]
    lower = [dotted.removesuffix(".__init__") for dotted in names if dotted.startswith(PACKAGES[1:])]
    assert module not in modules_after("import " + ", ".join(lower))


def test_the_daemon_does_not_load_torch() -> None:
    assert "torch" not in modules_after("import gossipnode.daemon")


def test_help_loads_neither_torch_nor_libp2p() -> None:
    loaded = modules_after(
        "import sys; sys.argv = ['gossipnode', '--help']\n"
        "from gossipnode.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code"
    )
    assert not {"torch", "libp2p"} & loaded


def test_help_is_quick() -> None:
    before = os.times()
    output_of(sys.executable, "-c", "from gossipnode.cli import main; main()", "--help")
    after = os.times()
    assert after.children_user - before.children_user < 3.0  # CPU, not wall time; measured 0.2 s


def test_constraints_name_no_place() -> None:
    for file in ("constraints.txt", "constraints-dev.txt"):
        text = (ROOT / file).read_text()
        assert "://" not in text
        assert "--index" not in text
        assert not re.search(r"^(torch|nvidia\S*|cuda\S*|triton)==", text, re.MULTILINE)


def pinned(file: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / file).read_text(), re.MULTILINE))


def test_every_dependency_is_pinned() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'^  "([a-z0-9-]+)(?:\[\w+\])?[>=]=', text, re.MULTILINE))
    assert {"trio", "pytest"} <= listed
    assert listed - {"torch"} <= pinned("constraints.txt") | pinned("constraints-dev.txt")


def test_dockerfile_copies_what_exists() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in copies for source in line.split()]
    assert {"pyproject.toml", *PACKAGES} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    sent = {line.strip("!/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == set(sources)


def test_dockerfile_starts_and_probes_the_same_node() -> None:
    text = (ROOT / "Dockerfile").read_text()
    entry = json.loads(re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[0])
    assert "http://" + entry[entry.index("--http") + 1] + "/healthz" in text
    usage = output_of(sys.executable, "-c", "from gossipnode.cli import main; main()", "start", "--help")
    assert [word for word in entry if word.startswith("--") and word not in usage] == []


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_make_target_is_explained() -> None:
    help_names = {line.split()[0] for line in output_of("make", "--no-print-directory", "help").splitlines()}
    assert help_names == make_targets()


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_documented_commands_exist(file: str) -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(re.findall(r"`[^`]+`", (ROOT / file).read_text()))))
    assert "test" in named
    assert named <= make_targets()


# -- the preflight check: a machine on which libp2p cannot be built is told so before anything is downloaded ---------


@each([ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])
def test_documented_scripts_start_as_the_text_says(path: Path) -> None:
    """With `-m scripts.NAME`, what lies beside a script is found as scripts.OTHER only; without, as OTHER only."""
    beside = {each.stem for each in (ROOT / "scripts").iterdir()}
    for module, file in re.findall(r"python (?:-m scripts\.(\w+)|scripts/(\w+)\.py)", path.read_text()):
        script = ROOT / "scripts" / f"{module or file}.py"
        assert not imported(script) & (beside if module else {"scripts"}), f"{script.name}, as {path.name} starts it"


def preflight(**environment: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "scripts" / "preflight.py")]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


needs_linux = pytest.mark.skipif(sys.platform == "darwin", reason="macOS gets a ready-made fastecdsa")


@needs_linux
def test_preflight_passes_where_libp2p_is_installed() -> None:
    assert preflight() == (0, "")


@needs_linux
def test_preflight_names_the_compiler() -> None:
    status, text = preflight(CC="no-such-compiler")
    assert status == 1
    assert "apt-get install gcc\n" in text


@needs_linux
@pytest.mark.parametrize(("header", "package"), [("gmp.h", "libgmp-dev"), ("Python.h", "python3-dev")])
def test_preflight_names_the_missing_header(tmp_path: Path, header: str, package: str) -> None:
    (tmp_path / header).write_text("#error missing\n")
    status, text = preflight(CC=f"cc -I{tmp_path}")
    assert status == 1
    assert f"apt-get install {package}\n" in text
    assert "brew install" in text
