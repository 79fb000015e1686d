"""`python -m infermesh.emulator`: one emulated engine as a process of its own."""

from __future__ import annotations

import signal

import click
import trio

from infermesh.core.model.profiles import PROFILES
from infermesh.emulator.config import EmulatorConfig, EmulatorConfigError
from infermesh.emulator.faults import FaultError, Faults
from infermesh.emulator.server import EmulatorServer, serve_emulator

_EXAMPLES = """\b
Examples:
  python -m infermesh.emulator --port 8001 --profile a100 --model emulated-8b
  python -m infermesh.emulator --profile h100 --speed 10 --faults '{"slow_factor": 4}'
  curl http://127.0.0.1:8001/v1/completions -H 'content-type: application/json' \\
       -d '{"model": "emulated-8b", "prompt": "hello", "max_tokens": 8, "stream": true}'
  curl http://127.0.0.1:8001/emulator/faults -d '{"reset_after_tokens": 3, "requests_left": 1}'
"""


@click.command(epilog=_EXAMPLES)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="Port to listen on; 0: any free one.")
@click.option("--model", "models", multiple=True, default=("emulated-8b",), show_default=True)
@click.option("--profile", type=click.Choice(sorted(PROFILES)), default="h100", show_default=True)
@click.option("--speed", default=1.0, show_default=True, help="Divides every duration of the profile.")
@click.option("--slots", default=0, show_default=True, help="Sequences at once; 0: the profile's.")
@click.option("--seed", default=0, show_default=True, help="Decides the text of answers.")
@click.option("--faults", "faults_json", default="{}", help="Fault switches as a JSON object.")
def main(**options: object) -> None:
    """Serve vLLM's HTTP API from a cost model, in place of a GPU."""
    faults = Faults()
    try:
        faults.change(str(options.pop("faults_json")).encode())
        config = EmulatorConfig(faults=faults, crash_exits_process=True, **options)  # type: ignore[arg-type]
        config.validate()
    except (FaultError, EmulatorConfigError) as error:
        raise click.UsageError(str(error)) from None
    try:
        trio.run(_serve, config)
    except OSError as error:
        raise click.ClickException(
            f"the emulated engine cannot listen on {config.host} port {config.port}: {error}"
        ) from None


async def _serve(config: EmulatorConfig) -> None:
    failure: OSError | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            try:
                server: EmulatorServer = await nursery.start(serve_emulator, config)
            except OSError as error:
                failure = error
            else:
                _announce(server)
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()
    # Out here, so that the caller meets one plain exception and no group.
    if failure is not None:
        raise failure


def _announce(server: EmulatorServer) -> None:
    config = server.config
    click.echo(
        f"emulated engine (no GPU; profile {server.profile.name}, speed {config.speed:g}) serving "
        f"{', '.join(config.models)}, listening on {server.url}",
        err=True,
    )


if __name__ == "__main__":
    main(prog_name="python -m infermesh.emulator")
