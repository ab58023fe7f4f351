"""The ``bursar`` command: one thin function a command; what they do is in the modules beside this one.

Modules are imported inside the functions: the supervisor shares this process' memory, and most commands need little.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bursar import cli_client, cli_finance, cli_money
from bursar.here import NotKnown

PORT = click.IntRange(0, 65535)


class Commands(click.Group):
    """Says in one sentence what is needed and not known, and what to install where a command needs the services and
    only the client is there."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except NotKnown as refusal:
            raise click.ClickException(str(refusal)) from None
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == "bursar":  # a fault of ours, not a thin install
                raise
            raise click.ClickException(
                f"`bursar {context.invoked_subcommand}` runs the services, and this is the install for those who only "
                f"connect (`{missing}` is not there): pip install 'bursar[server]'."
            ) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bursar")
def main() -> None:
    """Bursar, the open spend gateway for Claude Code.

    `bursar up` runs everything on this machine; `bursar claude` starts Claude Code against it.
    """


@main.command()
@click.option("--home", default="~/.bursar", envvar="BURSAR_HOME", show_default=True, help="Folder of all state.")
@click.option(
    "--port", type=PORT, default=8080, show_default=True, help="Everything is on this one port; 0 takes a free one."
)
@click.option(
    "--clickhouse-port",
    type=PORT,
    default=8123,
    show_default=True,
    help="ClickHouse HTTP interface, loopback only; 0 takes a free one.",
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--require-token", is_flag=True, help="Ask for the admin token on loopback, too.")
@click.option("--simulator", is_flag=True, help="Answer by Bursar's own simulator instead of the provider.")
@click.option(
    "--provider-config",
    type=click.Path(path_type=Path),
    help='JSON file with the first key\'s provider config, e.g. {"provider": "anthropic", "credential": "client"}.',
)
def up(
    home: str,
    port: int,
    clickhouse_port: int,
    bind: str,
    require_token: bool,
    simulator: bool,
    provider_config: Path | None,
) -> None:
    """Run everything on this machine until Ctrl-C.

    The provider's key is read from BURSAR_ANTHROPIC_API_KEY, else ANTHROPIC_API_KEY; without one, on loopback, Bursar's
    own simulator answers. Stopping, killing and starting again loses nothing.
    """
    from bursar.home import Home, StartRefused
    from bursar.up import UpOptions, run

    options = UpOptions(
        home=Home.at(home).path,
        port=port,
        clickhouse_port=clickhouse_port,
        bind=bind,
        require_token=require_token,
        simulator=simulator,
        provider_config=provider_config,
    )
    try:
        sys.exit(run(options))
    except StartRefused as refusal:
        raise click.ClickException(str(refusal)) from None


@main.command()
@click.option("--port", type=PORT, default=8090, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--records",
    type=click.IntRange(0),
    default=100_000,
    show_default=True,
    help="Requests remembered for /sim/served.",
)
@click.option("--fd", type=int, hidden=True, help="A listening socket handed over.")
def simulate(port: int, host: str, records: int, fd: int | None) -> None:
    """An upstream that speaks the provider's API, without a provider.

    Answers POST /v1/messages (JSON and streamed), count_tokens and models. Headers of a request choose its answer, for
    example `x-sim-output-tokens: 500`, `x-sim-pace-ms: 20`, `x-sim-status: 529`, `x-sim-drop: after-event:6`. GET
    /sim/served and /sim/totals tell what was served; POST /sim/defaults, /sim/next and /sim/reset steer it.
    """
    from bursar.simulator import Simulator, new_instance, serve
    from bursar_common import service

    simulator = Simulator(instance=new_instance(), records=records)
    try:
        code = service.run(
            lambda: serve(simulator, host=host, port=port, ready=lambda url: print(url, flush=True), fd=fd)
        )
    except OSError as error:
        raise click.ClickException(
            f"The simulator cannot listen on {host}:{port}: {error.strerror or error}."
        ) from None
    sys.exit(code)


@main.command()
@click.argument("store", type=click.Choice(["ledger", "analytics"]))
@click.option("--home", default="~/.bursar", envvar="BURSAR_HOME", show_default=True, help="Home of the local Bursar.")
def rebuild(store: str, home: str) -> None:
    """Delete a derived store and replay it from the event log, to the same figures.

    `ledger` is Redis: admission is closed meanwhile, requests wait. `analytics` is ClickHouse. Works while `bursar up`
    runs and while it does not; with BURSAR_KAFKA_BOOTSTRAP set, on separately run services.
    """
    import os

    from bursar.home import Home, StartRefused
    from bursar.rebuild import run

    try:
        sys.exit(run(store, Home.at(home), os.environ, click.echo))
    except StartRefused as refusal:
        raise click.ClickException(str(refusal)) from None


@main.command()
@click.argument("what", type=click.Choice(["list", "verify", "restore"]))
@click.argument("months", nargs=-1)
@click.option("--home", default="~/.bursar", envvar="BURSAR_HOME", show_default=True, help="Home of the local Bursar.")
def archive(what: str, months: tuple[str, ...], home: str) -> None:
    """Requests that left ClickHouse for the folder BURSAR_USAGE_ARCHIVE: months such as 2026-03; none named: all.

    `verify` reads every file and compares it with what was written. `restore` puts the requests into the table
    bursar.usage_restored, in place of what is there: to look at, no sum or page reads it.
    """
    import os

    from bursar.home import Home, StartRefused
    from bursar.rebuild import run

    try:
        sys.exit(run("archive", Home.at(home), os.environ, click.echo, (what, *months)))
    except StartRefused as refusal:
        raise click.ClickException(str(refusal)) from None


@main.group()
def topics() -> None:
    """The event log's topics on Kafka (separately run services)."""


@topics.command("apply")
def apply_topics() -> None:
    """Create missing topics and put wrong settings right; safe to repeat. Reads BURSAR_KAFKA_* and retention."""
    import os

    from bursar.topics_command import apply

    sys.exit(apply(os.environ, lambda line: click.echo(line, err=line.startswith("Error"))))


for _command in (
    cli_client.claude,
    cli_client.connect,
    cli_client.disconnect,
    cli_client.doctor,
    cli_client.keys,
    cli_client.quota,
    cli_client.statusline,
    cli_money.usage,
    cli_money.import_logs,
    cli_money.export,
    cli_finance.close,
    cli_finance.reconcile,
):
    main.add_command(_command)


if __name__ == "__main__":
    main()
