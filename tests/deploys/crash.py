"""A deploy whose operator's side dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.deploys.runner import Deployment

# How pyinfra announces an operation.
MARK = "--> Starting operation: "


@dataclass(frozen=True)
class Kill:
    """When: ``milliseconds`` after the line that announces the operation."""

    operation: str
    milliseconds: int = 0

    def __str__(self) -> str:
        return f"{self.operation} +{self.milliseconds} ms"


def run_and_kill(deployment: Deployment, kill: Kill, verb: str = "secure_redis", *arguments: str) -> list[str]:
    """Start a verb, SIGKILL its whole process group at the given moment, and return the lines it had printed."""
    return kill_when(deployment, kill.operation, lambda: time.sleep(kill.milliseconds / 1000), verb, *arguments)[0]


def kill_when(
    deployment: Deployment, operation: str, reach: Callable[[], object], verb: str, *arguments: str
) -> tuple[list[str], bool]:
    """Start a verb and SIGKILL its whole process group when `reach`, called as that operation begins, returns: the lines it had
    printed, and whether it was still at work."""
    process = deployment.start(verb, *arguments)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith(MARK) and line.rstrip().removeprefix(MARK).rpartition("| ")[2] == operation:
                reach()
                break
        else:
            raise AssertionError(f"the run ended before {operation}:\n{''.join(lines)}")
        return lines, process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def kill_at(deployment: Deployment, number: int, verb: str, *arguments: str) -> bool:
    """Start a verb and SIGKILL it when its operation of that number begins; False when it had fewer, and succeeded."""
    process = deployment.start(verb, *arguments)
    assert process.stdout is not None
    lines, seen = [], 0
    try:
        for line in process.stdout:
            lines.append(line)
            seen += line.startswith(MARK)
            if seen > number:
                return True
    finally:
        if seen > number:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert process.returncode == 0, "".join(lines)
    return False


def kill_after(deployment: Deployment, share: float, spans: dict[str, float], verb: str, *arguments: str) -> bool:
    """Start a verb and SIGKILL it at that share of the time it took when it was last undisturbed, counted from its first
    operation. False when it ended before, and succeeded. ``spans`` keeps the times."""
    process = deployment.start(verb, *arguments)
    assert process.stdout is not None
    lines, began, timer = [], 0.0, None

    def kill() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    for line in process.stdout:
        lines.append(line)
        if timer is None and line.startswith(MARK):
            began = time.monotonic()
            timer = threading.Timer(share * spans.get(verb, 6.0), kill)
            timer.start()
    process.wait()
    if timer is not None:
        timer.cancel()
    process.stdout.close()
    assert process.returncode in (0, -signal.SIGKILL), "".join(lines)
    if process.returncode == 0:
        spans[verb] = time.monotonic() - began
    return process.returncode != 0
