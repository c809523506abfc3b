"""`redkeep serve`: the API, on this host alone unless told otherwise."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redkeep.cli.listening import listen
from redkeep.dashboard.address import is_loopback
from redkeep.errors import ConfigurationError
from redkeep.monitoring.json_lines import log_json_lines

if TYPE_CHECKING:
    import uvicorn

DEFAULT_PORT: Final = 8765
CONNECTIONS: Final = 128
"""At once; beyond it a request gets 503. One dashboard keeps one or two. Half of them may be without a request."""

LEAST_INTERVAL: Final = 1
"""Seconds; a probe takes a tenth of one, and its refused logins stand in the server's log."""

HEAD_BYTES: Final = 16_384
"""The longest request line and headers together, before 400."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser(
        "serve",
        help="serve the API",
        description="Serve the API. The key comes from REDKEEP_API_KEY or the file of REDKEEP_API_KEY_FILE, everything else from "
        "the cache's own environment. Needs the extra redkeep[api].",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"TCP port (default: {DEFAULT_PORT})")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="use TLS with this certificate chain (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="key of the certificate (PEM)")
    parser.add_argument("--insecure-http", action="store_true",
                        help="plain HTTP beyond this host: only inside a container's own network, or behind a proxy that speaks TLS")
    parser.add_argument("--interval", type=float, default=None, metavar="SECONDS",
                        help=f"time between two checks of the posture, at least {LEAST_INTERVAL} (default: 30)")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="the cache's settings (default: this process's environment)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it. Raises ConfigurationError, before anything listens, for what cannot work."""
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise ConfigurationError("--tls-cert and --tls-key belong together; give both or neither")
    if not 0 <= arguments.port <= 65535:
        raise ConfigurationError("--port must be 0 to 65535; 0 chooses a free one")
    if arguments.interval is not None and not LEAST_INTERVAL <= arguments.interval <= 3600:
        raise ConfigurationError(f"--interval must be {LEAST_INTERVAL} to 3600 seconds")
    tls = arguments.tls_cert is not None
    if not tls and not arguments.insecure_http and not is_loopback(arguments.host):
        raise ConfigurationError(
            f"--host {arguments.host} reaches beyond this host, and the key would cross the network unencrypted: give --tls-cert and "
            "--tls-key, or --insecure-http behind a proxy that speaks TLS"
        )
    try:
        import uvicorn

        from redkeep.api.application import create_application
        from redkeep.api.connections import bounded_protocol
        from redkeep.api.dependencies import open_gate
        from redkeep.api.headers import SecurityHeaders
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed: in Redkeep's folder run `pip install './app[api]'`") from None
    from redkeep.monitoring.service import MonitoringService
    from redkeep.settings import Settings

    open_gate(Settings.load(arguments.env_file))  # what is wrong with the settings is said here, before anything listens
    MonitoringService(env_file=arguments.env_file)
    config = uvicorn.Config(
        SecurityHeaders(create_application(arguments.env_file, interval=arguments.interval)),
        ssl_certfile=arguments.tls_cert,
        ssl_keyfile=arguments.tls_key,
        http=bounded_protocol(waiting=CONNECTIONS // 2),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    _load(config)
    listening = listen(arguments.host, arguments.port)
    where = f"http{'s' if tls else ''}://{_shown(arguments.host)}:{listening.getsockname()[1]}"
    log_json_lines()
    server = _announcing(uvicorn.Server, f"redkeep: the API listens on {where}")(config)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn, having ended in order, raises the signal once more
    server.run(sockets=[listening])
    return 0 if server.started else 1


def notify(state: str) -> None:
    """Tell systemd, when it asked to be told (sd_notify(3)): `READY=1`, `STOPPING=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] in ("/", "@"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer, contextlib.suppress(OSError):
            peer.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
            peer.send(state.encode("ascii"))


def _announcing(base: type[uvicorn.Server], words: str) -> type[uvicorn.Server]:
    class Announcing(base):  # type: ignore[misc,valid-type]  # the base is imported only when it is needed
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(words, file=sys.stderr, flush=True)
                notify("READY=1")

    return Announcing


def _load(config: uvicorn.Config) -> None:
    """Read the certificate. Raises ConfigurationError when it cannot be used."""
    try:
        config.load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or "not a certificate with its key"
        raise ConfigurationError(f"--tls-cert and --tls-key cannot be used: {reason}") from None
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
