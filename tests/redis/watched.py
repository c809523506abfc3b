"""What the tests of the monitoring share: an env file, a stranger who guesses, receivers of alerts, a process to kill."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from redkeep.access.tls import client_context
from redkeep.monitoring.wire import Wire
from tests.redis.receivers import MAIL_PASSWORD, MAIL_USER, Mails, Posts, mail_server, webhook
from tests.redis.server import Files, Server

SIGNING = "s" * 32
Channels = tuple[dict[str, object], Mails, Posts]

_MONITORING = """
import asyncio, logging, sys
from pathlib import Path
from redkeep.monitoring import alerts, posture, probes, service
service.LOOK_SECONDS = 0.05
alerts.PAUSES = (0.05,) * 200
probes.DEFAULT_PORT = 1  # the machine's own Redis and its kernel settings are not what is tested
posture.probe_host = lambda target: iter(())

async def run():
    monitoring = service.MonitoringService(env_file=Path(sys.argv[1]), interval=3600)
    await monitoring.start()
    await asyncio.sleep(120)

asyncio.run(run())
"""


def env_file(server: Server, folder: Path, **more: object) -> Path:
    """A cache.env with the monitor's password and `more`."""
    path = folder / "cache.env"
    settings = {**server.settings, "redis_monitor_password": server.passwords["monitor"], **more}
    path.write_text("".join(f"{name.upper()}={value}\n" for name, value in settings.items()))
    path.chmod(0o600)
    return path


def guess(server: Server, *, times: int, user: str = "cache_service") -> None:
    """Wrong passwords from a client that is not ours."""
    with Wire("127.0.0.1", server.port, context=client_context(server.target()), timeout=3.0) as wire:
        for attempt in range(times):
            (reply,) = wire.ask(("AUTH", user, f"wrong-{attempt}"))
            assert str(reply).startswith("WRONGPASS")


async def until(there: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    """Whether it became so within `seconds`."""
    end = time.monotonic() + seconds
    while not there() and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return there()


def waited(there: Callable[[], bool], *, seconds: float = 20.0) -> bool:
    """The same outside a loop."""
    end = time.monotonic() + seconds
    while not there() and time.monotonic() < end:
        time.sleep(0.02)
    return there()


def webhook_settings(files: Files, url: str) -> dict[str, object]:
    return {
        "security_alert_webhook": url, "security_alert_webhook_secret": SIGNING, "security_alert_webhook_ca_file": files.ca,
        "security_alert_webhook_networks": "127.0.0.0/8,::1/128",
    }  # fmt: skip


@contextmanager
def receivers(files: Files, *, security: str = "starttls") -> Iterator[Channels]:
    """Alert settings, and what arrives by mail and by webhook."""
    with mail_server(files, security=security) as (port, mails), webhook(files) as (url, posts):
        settings: dict[str, object] = {
            "security_alert_email": "ops@example.org", "security_alert_smtp_host": "localhost", "security_alert_smtp_port": port,
            "security_alert_smtp_security": security, "security_alert_smtp_username": MAIL_USER,
            "security_alert_smtp_password": MAIL_PASSWORD, "security_alert_smtp_ca_file": files.ca, **webhook_settings(files, url),
        }  # fmt: skip
        yield settings, mails, posts


@contextmanager
def monitoring_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs the monitoring of an env file, looks twenty times a second, and is killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", _MONITORING, str(path)])
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def about_logins(alerts: list[Any]) -> list[Any]:
    return [alert for alert in alerts if "Authentication" in str(alert)]


@contextmanager
def speaker(*replies: bytes) -> Iterator[int]:
    """Something that answers one command after the other with `replies`; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # whoever asked has gone
                peer, _ = listening.accept()
                with peer:
                    for reply in replies:
                        peer.recv(4_096)
                        peer.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
