"""A deploy whose operator's side dies."""

from __future__ import annotations

import os
import signal
import time
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
    process = deployment.start(verb, *arguments)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith(MARK) and line.rstrip().removeprefix(MARK).rpartition("| ")[2] == kill.operation:
                time.sleep(kill.milliseconds / 1000)
                break
        else:
            raise AssertionError(f"the run ended before {kill}:\n{''.join(lines)}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return lines


def kill_at(deployment: Deployment, number: int, milliseconds: int, verb: str, *arguments: str) -> bool:
    """Start a verb and SIGKILL it that long after its operation of that number began; False when it ended by itself."""
    process = deployment.start(verb, *arguments)
    assert process.stdout is not None
    seen, killed = 0, False
    try:
        for line in process.stdout:
            if line.startswith(MARK):
                if seen == number:
                    time.sleep(milliseconds / 1000)
                    killed = process.poll() is None
                    break
                seen += 1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return killed
