"""`redkeep alerts test`: send a test through every alert channel and say which of them delivered."""

from __future__ import annotations

import argparse
from pathlib import Path

from redkeep.cli.status import DEFAULT_ENV_FILE


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser("alerts", help="test the alert channels", description="The alert channels.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    test = verbs.add_parser(
        "test",
        help="send a test through every channel",
        description="Send a test through every channel. Exit code: 0 if every channel delivered, 1 if one did not.",
    )
    test.add_argument("--env-file", type=Path, default=DEFAULT_ENV_FILE, metavar="FILE",
                      help=f"settings to use (default: {DEFAULT_ENV_FILE})")
    test.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a line a channel and return the exit code. Raises ConfigurationError when the settings cannot be used.

    The log is no way to people, and this process keeps none.
    """
    import asyncio

    from redkeep.environment import read_env_file
    from redkeep.monitoring.alert_settings import AlertSettings
    from redkeep.monitoring.alerts import SimpleAlertManager

    manager = SimpleAlertManager(settings=AlertSettings.read(read_env_file(arguments.env_file)))
    results = asyncio.run(manager.send_test_alert())
    for name in manager.alert_channels:
        result = results.get(name)
        if name == "log":
            print(f"-     {name:<8}  not tested: where the monitoring runs, every alert is in its log")
        elif result is None:
            print(f"-     {name:<8}  not configured: set SECURITY_ALERT_{'EMAIL' if name == 'email' else 'WEBHOOK'}")
        else:
            print(f"ok    {name:<8}  delivered" if result["ok"] else f"FAIL  {name:<8}  {result['detail']}")
    return 0 if all(result["ok"] for result in results.values()) else 1
