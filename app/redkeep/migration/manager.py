"""DetailedMigrationManager: the stages of a migration from Python, carried out by the bundle's own deploys.

`deploys/migrate.py` and `deploys/rollback.py` do the work on the hosts, hold the lock and keep the journal there; this runs them as
an operator would, and says what they said. So a migration begun here can be gone on with there, and the other way round.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from redkeep.errors import ConfigurationError
from redkeep.migration.stages import STAGES, Stage, find

logger = logging.getLogger(__name__)

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
_HOST_LINE: Final = re.compile(
    r"\s*\[(\S+)\]\s+(?!Connected|Ready:|Success|No changes|Skipped|Loaded fact|Error: executed)(\S.*)"
)
"""pyinfra's line for a host, without those that say only how far it is."""

_ERROR: Final = re.compile(r"--> pyinfra error[^:]*: (.*\S)")
"""What stopped a run before it began anything."""

_DATA_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

Verb = Literal["migrate", "rollback", "status"]


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """One run of a deploy: what was asked, how it ended, how long it took in seconds, and what it said, a line each."""

    verb: Verb
    stage: str
    succeeded: bool
    seconds: float
    lines: tuple[str, ...]


class DetailedMigrationManager:
    """For the machine of the operator, who has the bundle, its inventory and its secrets."""

    def __init__(
        self, bundle: Path | str = ".", inventory: Path | str = "inventory", *, data: Mapping[str, str] | None = None
    ) -> None:
        """`bundle` is the folder with `deploys/`, `inventory` a path in it or an absolute one; `data` is given to the deploys as
        `--data`: `stragglers`, `old_backup`, `unknown_keys`, `secrets_folder`.

        Raises ConfigurationError when one of them is not there, or a name in `data` is none.
        """
        self.bundle = Path(bundle).resolve()
        self.inventory = self.bundle / inventory
        self._pyinfra = self.bundle / ".venv" / "bin" / "pyinfra"
        self._data = dict(data or {})
        if not (self.bundle / "deploys" / "migrate.py").is_file():
            raise ConfigurationError(f"bundle: {self.bundle} has no deploys/migrate.py; name the folder of the Redkeep bundle")
        if not self.inventory.is_file():
            raise ConfigurationError(f"inventory: there is no {self.inventory}; name a file such as inventories/single.py")
        if not self._pyinfra.is_file():
            raise ConfigurationError(f"bundle: {self._pyinfra} is missing; run `make environment` in {self.bundle}")
        for name in self._data:
            if not _DATA_NAME.fullmatch(name) or name == "stage":
                raise ConfigurationError(f"data: {name[:40]!r} is not the name of a deploy option; see docs/migration.md")
        self.results: list[MigrationResult] = []
        """Every run, in order. The hosts' own journals hold more, and outlive this process."""

    @property
    def migration_steps(self) -> list[dict[str, Any]]:
        """The stages in their order, as the PRD has them: name, description, duration_hours, actions, validation, rollback, risk."""
        return [_described(stage) for stage in STAGES]

    async def execute_migration_step(self, step_name: str, *, rollback_on_failure: bool = False) -> bool:
        """Carry a stage out and validate it; True when it is done on every host.

        Raises ConfigurationError with the deploy's reason otherwise: an unknown stage, one out of order, clients that are not ready,
        somebody else at work. Then the stage is as far as it came, and the same call goes on; or, with `rollback_on_failure`, it is
        undone first.
        """
        stage = find(step_name)
        try:
            await self._run("migrate", stage)
        except ConfigurationError:
            if rollback_on_failure:
                try:
                    await self._run("rollback", stage)
                except ConfigurationError as error:  # not begun at all, mostly; the reason of the failure matters more
                    logger.warning("migration_not_undone", extra={"stage": stage.name, "reason": str(error)})
            raise
        return True

    async def rollback_migration_step(self, step_name: str) -> bool:
        """Undo every stage back to this one, the last one first; True when all are undone. Raises ConfigurationError."""
        await self._run("rollback", find(step_name))
        return True

    async def plan_migration_step(self, step_name: str) -> tuple[str, ...]:
        """What the stage would do, a line each; nothing is changed. Raises ConfigurationError."""
        return (await self._run("migrate", find(step_name), dry=True)).lines

    async def migration_status(self) -> tuple[str, ...]:
        """What `deploys/status.py` says of every host: where its migration stands, and what differs from it."""
        return (await self._run("status", None)).lines

    async def _run(self, verb: Verb, stage: Stage | None, *, dry: bool = False) -> MigrationResult:
        given = {**self._data, **({"stage": stage.name} if stage else {})}
        data = [word for name, value in given.items() for word in ("--data", f"{name}={value}")]
        command = [str(self._pyinfra), "--dry" if dry else "-y", str(self.inventory), f"deploys/{verb}.py", *data]
        name = stage.name if stage else ""
        logger.info("migration_step_begins", extra={"verb": verb, "stage": name})
        start = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.bundle,
            env=os.environ | {"PYINFRA_PROGRESS": "off"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        except BaseException:  # whoever waited has gone: the deploy is ended, and the same call goes on with it
            process.terminate()
            await process.wait()
            raise
        text = output.decode("utf-8", "replace")
        lines = said(text)
        result = MigrationResult(verb, name, process.returncode == 0, time.monotonic() - start, lines)
        self.results.append(result)
        if not result.succeeded and stage is not None:  # a status fails when something differs, which is an answer
            why = reason(text) or f"pyinfra ended with {process.returncode}"
            logger.error("migration_step_failed", extra={"verb": verb, "stage": name, "reason": why})
            raise ConfigurationError(f"{verb} {name}: {why}")
        logger.info("migration_step_done", extra={"verb": verb, "stage": name, "seconds": round(result.seconds, 1)})
        return result


def said(output: str) -> tuple[str, ...]:
    """What a run of pyinfra says of hosts, a line each as `host: text`, without colours and without what says only that it goes on."""
    found = (_HOST_LINE.match(line) for line in _ANSI.sub("", output).splitlines())
    return tuple(f"{match[1]}: {match[2].rstrip()}" for match in found if match)


def reason(output: str) -> str:
    """Why a run failed: what stopped it, or the last line of each host."""
    stopped = _ERROR.search(_ANSI.sub("", output))
    if stopped:
        return stopped[1]
    last = dict(line.split(": ", 1) for line in said(output))
    return "; ".join(f"{host}: {text.removeprefix(f'{host}: ')}" for host, text in last.items())


def _described(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "description": stage.description,
        "duration_hours": stage.minutes / 60,
        "actions": list(stage.actions),
        "validation": stage.validation,
        "rollback": stage.rollback,
        "risk": stage.risk,
    }
