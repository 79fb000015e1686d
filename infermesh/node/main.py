"""`meshd`: read the config, load the identity, run the node until it is told to stop.

Exit codes: 0 stopped in good order, 1 failed, 2 a config or identity that cannot be used. Everything that an
operator can get wrong is said before a port opens, in one message that names the setting.
"""

from __future__ import annotations

import gc
import os
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import NoReturn

import click
import trio

from infermesh import __version__
from infermesh.net.listener import ListenFailed
from infermesh.net.steady_clock import SteadyClock
from infermesh.node.assemble import Node, seeded_rng
from infermesh.node.client_tls import load_client_tls
from infermesh.node.config import ConfigError, NodeConfig, load_config
from infermesh.node.identity import Identity, IdentityError, load_identity
from infermesh.observe.logs import configure_logs, flush_logs, get_logger, keep_logs_flowing

_EXAMPLES = """
\b
Examples:
  meshd --config node.toml
  meshd --config node.toml --set client.listen=0.0.0.0:8080 --set logs.level=debug
  INFERMESH_ADMIN__LISTEN=127.0.0.1:9191 meshd --config node.toml
  meshd --config node.toml --check
"""


@click.command(epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The node's TOML file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override one key, as section.key=value.")
@click.option("--check", is_flag=True, help="Check config and identity, say what is wrong, and end.")
@click.version_option(__version__, prog_name="meshd")
def main(config_file: Path | None, settings: tuple[str, ...], *, check: bool) -> None:
    """The infermesh daemon: one per node."""
    try:
        config = load_config(config_file, os.environ, dict(map(_split_setting, settings)))
        identity = load_identity(config.trust, config.node.id, time.time()) if config.meshed else None
        client_tls = load_client_tls(config.client) if config.routes else None
    except (ConfigError, IdentityError) as error:
        _refuse(str(error))
    if check:
        click.echo(f"meshd: node {config.node.id} is well configured", err=True)
        return
    configure_logs(config.node.id, config.logs.level)
    sys.exit(_serve(config, identity, client_tls))


def _split_setting(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals:
        raise click.UsageError(f"--set {setting!r} is not KEY=VALUE, as in client.listen=0.0.0.0:8080")
    return key, value


def _serve(config: NodeConfig, identity: Identity | None, client_tls: ssl.SSLContext | None) -> int:
    # What exists now lives as long as the process: the collector need not look at it again. Requests make little
    # that is cyclic, so a young collection every 50,000 objects is enough.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        trio.run(_run, config, identity, client_tls, clock=SteadyClock())
    except ListenFailed as error:
        click.echo(f"meshd: {error}; change its listen key in the config, or stop what uses it", err=True)
        return 1
    except Exception:  # noqa: BLE001 - the end of the process: what is left is to say why, where logs are read.
        get_logger().critical("node_crashed", exc_info=True)
        return 1
    finally:
        flush_logs()
    return 0


async def _run(config: NodeConfig, identity: Identity | None, client_tls: ssl.SSLContext | None) -> None:
    node = Node(config, identity, seeded_rng(), client_tls=client_tls)
    refused: ListenFailed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_logs_flowing)
        nursery.start_soon(_stop_on_signal, node)
        try:
            await node.run()
        except* ListenFailed as group:
            refused = next(error for error in group.exceptions if isinstance(error, ListenFailed))
        nursery.cancel_scope.cancel()
    if refused is not None:
        raise refused


async def _stop_on_signal(node: Node) -> None:
    """The first signal stops in good order, the second one at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            node.stop()
            break
        async for number in signals:
            flush_logs()
            os._exit(128 + number)


def _refuse(message: str) -> NoReturn:
    click.echo(f"meshd: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
