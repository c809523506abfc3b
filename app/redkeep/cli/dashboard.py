"""`redkeep dashboard`: the page, served on this host and fed by the API."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Final

from redkeep.cli.listening import listen
from redkeep.dashboard.address import is_loopback
from redkeep.errors import ConfigurationError

DEFAULT_PORT: Final = 8501

PAGE_OPTIONS: Final = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "server.maxUploadSize": "1",  # there is nothing to upload
    "server.enableStaticServing": "false",
    "browser.gatherUsageStats": "false",  # speaks to nobody but the API
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",  # they would send what went wrong to search engines
    "theme.light.primaryColor": "#0f766e",
    "theme.dark.primaryColor": "#2dd4bf",
    "theme.baseRadius": "0.5rem",
}
"""Streamlit's settings. Light or dark follows the browser."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser(
        "dashboard",
        help="serve the dashboard, a web page fed by the API",
        description="Serve the dashboard. It asks the API at REDKEEP_API_URL (default: http://127.0.0.1:8765) with the key of "
        "REDKEEP_API_KEY or REDKEEP_API_KEY_FILE, and nothing else. Needs the extra redkeep[dashboard].",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"TCP port (default: {DEFAULT_PORT})")
    parser.add_argument("--insecure-open", action="store_true",
                        help="listen beyond this host: the page has no login, and the connection to it is not encrypted")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Become Streamlit. Raises ConfigurationError, before anything listens, for what cannot work."""
    if not is_loopback(arguments.host) and not arguments.insecure_open:
        raise ConfigurationError(
            f"--host {arguments.host} shows the dashboard to everyone who can reach it: keep 127.0.0.1 and use a tunnel "
            f"(ssh -L {arguments.port}:127.0.0.1:{arguments.port} HOST), or give --insecure-open behind a proxy that asks for a login"
        )
    if not 1 <= arguments.port <= 65535:
        raise ConfigurationError("--port must be 1 to 65535")
    if importlib.util.find_spec("streamlit") is None or importlib.util.find_spec("httpx") is None:
        raise ConfigurationError("streamlit is not installed: in Redkeep's folder run `pip install './app[dashboard]'`")
    from redkeep.dashboard.client import Client, SettingsWrong

    try:
        Client.from_environment()
    except SettingsWrong as error:
        raise ConfigurationError(str(error)) from None
    listen(arguments.host, arguments.port).close()  # Streamlit would say it in thirty lines
    sys.stdout.flush()
    words = streamlit(Path(__file__).parents[1] / "dashboard" / "app.py", arguments.host, arguments.port)
    os.execv(sys.executable, words)  # noqa: S606  # nosec B606 - our own interpreter and our own words


def streamlit(page: Path, host: str, port: int) -> list[str]:
    """The command that serves a page with the settings of this one."""
    options = {"server.address": host, "server.port": str(port), **PAGE_OPTIONS}
    return [sys.executable, "-m", "streamlit", "run", str(page), *(f"--{name}={value}" for name, value in options.items())]
