"""Run pyinfra as its users do: as a command, on the lab's hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYINFRA = Path(sys.executable).with_name("pyinfra")
_NOT_MENDED = r"would repair:|drift:|as wanted|nothing had|\d+ changes? made|Success|No changes|Connected|Ready|Skipped|Error: executed"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Run:
    """One finished run: exit code, all output without colours, wall seconds."""

    code: int
    output: str
    seconds: float

    @property
    def mended(self) -> dict[str, list[str]]:
        """What each host had mended, by the host's name."""
        return self._lines(rf"(?!{_NOT_MENDED})")

    @property
    def drift(self) -> dict[str, list[str]]:
        """What a status found on each host."""
        return self._lines(r"drift: ")

    @property
    def planned(self) -> dict[str, list[str]]:
        """What a dry run would mend on each host."""
        return self._lines(r"would repair: ")

    @property
    def changed_operations(self) -> int:
        """The number in the Success column of the grand total; 0 when pyinfra shows a dash."""
        total = re.search(r"Grand total +\d+ +(\S+)", self.output)
        assert total, self.output
        return 0 if total[1] == "-" else int(total[1])

    def _lines(self, start: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for host, text in re.findall(rf"^ +\[(\S+)\] +(?=\S){start}(.*)$", self.output, re.MULTILINE):
            found.setdefault(host, []).append(text)
        return found

    def ok(self) -> Run:
        """This run, which must have succeeded."""
        assert self.code == 0, self.output
        return self


@dataclass(frozen=True)
class Deployment:
    """An inventory with secrets of its own, outside the repository."""

    inventory: Path
    secrets: Path

    def command(self, verb: str, *arguments: str, yes: bool = True) -> list[str]:
        return [
            str(PYINFRA), *(["-y"] if yes else []), str(self.inventory), f"deploys/{verb}.py",
            "--data", f"secrets_folder={self.secrets}", *arguments,
        ]  # fmt: skip

    def run(self, verb: str = "secure_redis", *arguments: str, yes: bool = True, environment: dict[str, str] | None = None) -> Run:
        """Run a verb and wait for it."""
        began = time.monotonic()
        done = subprocess.run(
            self.command(verb, *arguments, yes=yes),
            cwd=ROOT,
            env=os.environ | {"PYINFRA_PROGRESS": "off"} | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        return Run(done.returncode, _ANSI.sub("", done.stdout), time.monotonic() - began)

    def start(self, verb: str = "secure_redis", *arguments: str) -> subprocess.Popen[str]:
        """Start a verb in a process group of its own; its lines come as they are printed."""
        return subprocess.Popen(
            self.command(verb, *arguments),
            cwd=ROOT,
            env=os.environ | {"PYINFRA_PROGRESS": "off", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
