"""The ``bursar`` command: one thin function a command; what they do is in the modules beside this one.

Modules are imported inside the functions: the supervisor shares this process' memory, and most commands need little.
"""

from __future__ import annotations

import sys

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bursar")
def main() -> None:
    """Bursar, the open spend gateway for Claude Code.

    `bursar up` runs everything on this machine; `bursar claude` starts Claude Code against it.
    """


@main.command()
@click.option("--port", default=8090, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--records", default=100_000, show_default=True, help="Requests remembered for /sim/served.")
def simulate(port: int, host: str, records: int) -> None:
    """An upstream that speaks the provider's API, without a provider.

    Answers POST /v1/messages (JSON and streamed), count_tokens and models. Headers of a request choose its answer, for
    example `x-sim-output-tokens: 500`, `x-sim-pace-ms: 20`, `x-sim-status: 529`, `x-sim-drop: after-event:6`. GET
    /sim/served and /sim/totals tell what was served; POST /sim/defaults, /sim/next and /sim/reset steer it.
    """
    from bursar.simulator import Simulator, new_instance, serve
    from bursar_common import service

    simulator = Simulator(instance=new_instance(), records=records)
    try:
        code = service.run(lambda: serve(simulator, host=host, port=port, ready=lambda url: print(url, flush=True)))
    except OSError as error:
        raise click.ClickException(
            f"The simulator cannot listen on {host}:{port}: {error.strerror or error}."
        ) from None
    sys.exit(code)


if __name__ == "__main__":
    main()
