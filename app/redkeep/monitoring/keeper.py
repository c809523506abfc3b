"""What the parts of the monitoring know, kept together in one file: taken back at the start, written whenever it matters."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

from redkeep.errors import ConfigurationError
from redkeep.monitoring.events import SecurityMonitor
from redkeep.monitoring.state_file import claim_state, read_state, set_aside, write_state


class Part(Protocol):
    """What can be kept."""

    def snapshot(self) -> dict[str, Any]:
        """What it knows, as plain data."""
        ...

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take it back. Raises ValueError when it is something else."""
        ...


class Keeper:
    """One file for all parts, so that no two of them ever know different things, kept by one process. What fails is an event."""

    def __init__(self, path: Path | None, parts: Mapping[str, Part], monitor: SecurityMonitor) -> None:
        """Without a `path` nothing is kept."""
        self._path = path
        self._claim: int | None = None
        self._parts = parts
        self._monitor = monitor
        self._saving = asyncio.Lock()

    def restore(self) -> None:
        """Take back what is in the file, all of it or nothing: half of it would count twice. From here on it is ours.

        A file that cannot be used is set aside, with one warning."""
        if self._path is None or self._claim is not None:
            return
        try:
            self._claim = claim_state(self._path)
        except ConfigurationError as error:
            self._monitor.record("state_unusable", severity="error", file=str(self._path), reason=f"{error}; nothing is saved")
            return
        fresh = {name: part.snapshot() for name, part in self._parts.items()}
        try:
            saved = read_state(self._path)
            if saved is not None:
                for name, part in self._parts.items():
                    part.restore(saved[name])
        except (ConfigurationError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            for name, part in self._parts.items():
                part.restore(fresh[name])
            reason = str(error) if isinstance(error, ConfigurationError) else "its content is not usable; counting starts again from zero"
            aside = set_aside(self._path)
            self._monitor.record("state_unusable", file=str(self._path), reason=reason, kept=str(aside or ""))

    async def save(self) -> None:
        """Write the file once it is ours. A disk that refuses is said once an hour, and nothing else comes of it."""
        if self._path is None or self._claim is None:
            return
        async with self._saving:  # in turn: the last to write knows the most
            state = {name: part.snapshot() for name, part in self._parts.items()}
            try:
                await _to_the_end(asyncio.to_thread(write_state, self._path, state))
            except ConfigurationError as error:
                if not self._monitor.count("state_unusable", hours=1):
                    self._monitor.record("state_unusable", severity="error", file=str(self._path), reason=str(error))

    def close(self) -> None:
        """Leave the file to others."""
        claim, self._claim = self._claim, None
        if claim is not None:
            os.close(claim)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await it even when cancelled: its thread goes on, and an older state must not be written after a newer one."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
