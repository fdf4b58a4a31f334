"""The commands. Each imports what it needs only when it runs, so that `--help` and `status` stay quick and small.

An OperatorError is one line on stderr, `error: ...`, and exit code 2; anything else that escapes is our own bug.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gossipnode.errors import OperatorError

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_HOME = Path("~/.gossipnode").expanduser()


class Group(click.Group):
    """Prints OperatorErrors as they are meant to be seen."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # click's own signature
        try:
            return super().invoke(ctx)
        except OperatorError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


def home_option(function: F) -> F:
    return click.option(
        "--home",
        default=DEFAULT_HOME,
        show_default="~/.gossipnode",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of this node: identity, configuration, manifest, models.",
    )(function)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gossipnode")
def main() -> None:
    """Train one model with your peers, without a server and without pooling data."""


@main.command()
@home_option
def init(home: Path) -> None:
    """Make an identity and an annotated configuration file; print the peer id."""
    from gossipnode.start import init_home

    click.echo(init_home(home))


@main.command()
@home_option
@click.option("--peers", multiple=True, metavar="ADDR|FILE", help="A peer's full address, or a file with one a line. Repeatable.")
@click.option("--listen", metavar="ADDR", help="Multiaddress to listen on, as /ip4/0.0.0.0/tcp/4001; tcp/0 picks a port.")
@click.option("--http", metavar="HOST:PORT", help="Where the status is served; port 0 picks one.")
@click.option("--http-token", metavar="TOKEN", help="Needed to read the status; required if --http is not loopback.")
@click.option("--task", help="digits, mnist, mnist-mlp, or your own as package.module:attribute.")
@click.option("--shard", metavar="I/N", help="Take the I-th of N parts of the task's data (0/N is the first).")
@click.option("--partition", metavar="KIND", help="How parts are cut: iid, dirichlet:ALPHA or labels.")
@click.option("--data", type=click.Path(path_type=Path), help="This node's own data, given to the task.")
@click.option("--roles", multiple=True, type=click.Choice(["trainer", "auditor", "observer"]), help="Repeatable.")
@click.option("--threads", type=click.IntRange(1), help="Threads for training.")
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Where to train.")
@click.option("--psk", type=click.Path(path_type=Path, dir_okay=False), help="Key file of a private network.")
@click.option("--protocol", type=click.Choice(["modest"]), help="New run: how its peers train together.")
@click.option("--rounds", type=click.IntRange(0), help="New run: end after this many rounds; 0: never.")
@click.option("--manifest", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="New run: a TOML file of its settings.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="New run: any setting, as modest.trainers=4. Repeatable.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="info unless the configuration says more.")
@click.option("--log-json", is_flag=True, default=None, help="Log one JSON object a line.")
def start(home: Path, **options: Any) -> None:  # noqa: ANN401  # click's options, sorted out by `start_node`
    """Run the node: resume the home's run, join the one of --peers, or begin a new one with --task.

    The first node of a run makes its manifest and prints its address; give that address to the others as --peers.
    """
    from gossipnode.start import start_node

    start_node(home, options)


@main.command()
@click.argument("url", required=False)
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="The node's folder, instead of its URL.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--watch", is_flag=True, help="Redraw until Ctrl-C.")
def status(url: str | None, home: Path | None, as_json: bool, watch: bool) -> None:
    """Show what a node is doing."""
    from gossipnode.status.view import status_command

    if url is None and home is None:
        home = DEFAULT_HOME
    sys.exit(status_command(url, home, as_json, watch))


@main.command()
@home_option
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--task", help="Needed if the run's task is your own: package.module:attribute.")
def export(home: Path, path: Path, task: str | None) -> None:
    """Write the newest model of a home as safetensors with plain parameter names."""
    from gossipnode.export import export_model

    click.echo(export_model(home, path, task))


@main.command()
@click.option("--nodes", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Nodes in the swarm.")
@click.option("--protocol", default="modest", show_default=True, type=click.Choice(["modest"]))
@click.option("--task", default="digits", show_default=True, help="What they learn.")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0), help="One seed gives one trace.")
@click.option("--partition", default="iid", show_default=True, help="iid, dirichlet:ALPHA or labels.")
@click.option("--latency", default="wan", show_default=True, type=click.Choice(["lan", "wan"]), help="How far apart nodes are.")
@click.option("--loss", default=0.0, show_default=True, type=click.FloatRange(0, 0.9), help="Share of messages lost.")
@click.option("--bandwidth", default=0.0, show_default="unlimited", type=click.FloatRange(0), help="MB/s of each node's link.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting of the manifest. Repeatable.")
@click.option("--limit", "limit_s", default=86_400.0, show_default=True, help="Virtual seconds after which it has failed.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the report.")
def simulate(**options: Any) -> None:  # noqa: ANN401  # as above
    """Run a whole swarm in this process under virtual time: the daemon's own node code over a simulated network."""
    from gossipnode.simulate import simulate_command

    sys.exit(simulate_command(**options))
