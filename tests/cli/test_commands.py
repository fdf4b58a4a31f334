"""init, status, export and the help: what a newcomer types first."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gossipnode.cli import main
from gossipnode.home import Home
from gossipnode.identity import load_identity

ROOT = Path(__file__).parents[2]
COMMANDS = ("init", "start", "status", "export", "chain", "prepare", "simulate", "ask")


def ran(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_init_makes_a_home_once_and_prints_the_peer_id(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first = ran("init", "--home", str(home.path))
    assert first.exit_code == 0
    name = load_identity(home.identity).peer
    assert first.output.splitlines()[-1] == f"peer id {name}"
    home.config.write_text("threads = 2\n")
    again = ran("init", "--home", str(home.path))
    assert again.output.splitlines()[-1] == f"peer id {name}"
    assert home.config.read_text() == "threads = 2\n"  # what was edited is kept


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("chain", "--home", "{dir}"), "{dir} holds no run: start a node there first"),
        (("chain", "verify", "--home", "{dir}"), "{dir} holds no run: start a node there first"),
        (("status", "--home", "{dir}"), "no node runs in {dir}: start one with gossipnode start --home {dir}"),
        (
            ("status", "http://127.0.0.1:1"),
            "no node answers at http://127.0.0.1:1 (Connection refused): is it running?",
        ),
        (("export", "--home", "{dir}", "x.safetensors"), "{dir} holds no run: start a node there first"),
        (("init", "--home", "/proc/nowhere"), "cannot make the home /proc/nowhere"),
        (("prepare", "sentimental"), "unknown task 'sentimental': did you mean 'sentiment'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    done = ran(*(word.format(dir=tmp_path) for word in words))
    assert done.exit_code == 2
    assert line.format(dir=tmp_path) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    for option in main.commands[command].params:
        assert isinstance(option, click.Argument) or getattr(option, "help", None), f"{command} {option.name}"


def test_the_commands_are_told_in_a_line_each() -> None:
    text = ran("--help").output
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\S.*[^.]\.$", text, re.MULTILINE), command  # whole, not cut off with "..."


@pytest.mark.parametrize("file", ["README.md", "docs/running.md", "docs/status.md", "docs/simulation.md", "Dockerfile"])
def test_documented_options_exist(file: str) -> None:
    """Of every `gossipnode COMMAND ...` line."""
    for command, rest in re.findall(r"gossipnode (\w+)((?: .*)?)$", (ROOT / file).read_text(), re.MULTILINE):
        if command in COMMANDS:
            known = {name for option in main.commands[command].params for name in option.opts}
            assert set(re.findall(r"(?<![\w-])--[a-z-]+", rest)) - known - {"--help"} == set(), f"{command}{rest}"
