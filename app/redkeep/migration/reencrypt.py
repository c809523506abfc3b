"""Existing entries under the current key and secure names, beside live traffic; and the way back.

An entry is read under WATCH and written in the transaction that depends on it, on a connection of its own: what an application
writes meanwhile makes the transaction void, and the entry is looked at again. Old and new name change in one step, so that a
reader who asks at all of them at one instant finds it. Whatever is interrupted is begun again: a sweep over entries that are as
wanted only reads 31 bytes of each.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from redkeep.access.client import Command
from redkeep.cache.base import GONE
from redkeep.cache.compression import Preset
from redkeep.cache.epochs import REFRESH_SECONDS, Ask, Epochs, first_word, is_renewed
from redkeep.cache.keys import is_hashed_name, operation_of
from redkeep.crypto.envelope import is_envelope, read_header
from redkeep.errors import ConfigurationError, DecryptionError, RedkeepError, ServerUnavailableError
from redkeep.migration.counts import Counts, Progress
from redkeep.migration.progress import Pace, swept
from redkeep.migration.resealing import NO_END, Move, Resealer
from redkeep.migration.run_state import RunState
from redkeep.migration.sweep import Patience, Sweep
from redkeep.target import Target

RATE: Final = 2_000
"""Entries a second: what leaves the latency of others as it is, measured (docs/migration-data.md)."""

BATCH: Final = 16
"""Entries in one transaction: the server serves nobody else for some 0.1 ms. More are hardly faster, and others feel them."""

COMMIT_BYTES: Final = 1024 * 1024
"""A transaction writes no more at once: about a millisecond of the server's time."""

PASSES: Final = 4
"""Sweeps: one that works, one that finds nothing left; more when an application writes old forms meanwhile."""

_KEPT: Final = ("seen", "readable", "older_key", "returned", "invalidated", "superseded", "compared")
"""What counts on when a run goes on where another was interrupted."""


class DataMigration:
    """One run over the keys of one server and namespace."""

    def __init__(
        self,
        target: Target,
        *,
        compression: Preset = "none",
        rate: float = RATE,
        reverse: bool = False,
        dry_run: bool = False,
        state_file: Path | None = None,
        show: Callable[[Progress], None] | None = None,
    ) -> None:
        """`rate` in entries a second, 0 for no limit; `show` is called after each step. `dry_run` writes nothing.

        Raises ConfigurationError when there is no encryption key, or nobody here may SCAN.
        """
        if not target.keys:
            raise ConfigurationError("there is no encryption key; set REDIS_ENCRYPTION_KEY")
        self._target = target
        self._pace = Pace(rate)
        self._sweep = self._new_sweep()
        self._ask = self._asker()
        self._epochs = Epochs(self._ask, target.namespace)
        self._plans = Resealer(target.keys, target.namespace, self._epochs, compression=compression, reverse=reverse)
        self._reverse = reverse
        self._dry = dry_run
        self._state = RunState(
            None if dry_run else state_file,
            server=f"{target.host}:{target.port}/{target.address.database}",
            key=self._plans.ring.primary.key_id.hex(),
            namespace=target.namespace,
            reverse=reverse,
        )
        self._show = show
        self._marked_until = 0.0
        self._last = False
        self._lay: dict[bytes, bytes] = {}
        self.counts = Counts()

    def _new_sweep(self) -> Sweep:
        """A hook: what sees the names and their values."""
        return Sweep(self._target, pace=self._pace)

    def _asker(self) -> Ask:
        """A hook: what executes a command whose key may lie elsewhere than what is swept."""
        return self._sweep.ask

    async def run(self) -> Counts:
        """Sweep until nothing is left to do, four times at most; `left` of the result says what still was.

        Raises the leaves of our error tree. What was done stays done, and the next run goes on.
        """
        with self._state.alone():
            saved = self._state.load()
            self.counts = Counts(**{name: saved["counts"][name] for name in _KEPT}) if saved else Counts()
            number = int(saved.get("number", 1))
            async with self._sweep:
                cursor = int(saved.get("cursor", 0))
                while True:
                    done = self._done
                    self.counts.left = self.counts.unreadable = self.counts.without_old_name = 0
                    self.counts.foreign = {}
                    await self._pass(number, cursor)
                    begun_anew, cursor = cursor == 0, 0
                    if self._dry or number >= PASSES or (begun_anew and self._done == done and not self.counts.left):
                        break
                    number += 1
                if self._reverse and not (self._dry or self.counts.left or self.counts.without_old_name):
                    await self._all_returned()
            self._state.forget()
        return self.counts

    @property
    def _done(self) -> int:
        counts = self.counts
        return counts.moved + counts.invalidated + counts.superseded

    async def _pass(self, number: int, cursor: int) -> None:
        self._last = number > 1
        patience, start = Patience(), time.monotonic()
        began_at = swept(cursor) if cursor else 0.0
        finished = False
        while not finished:
            try:
                async for after, names in self._sweep.steps(cursor):
                    await self._step(names)
                    self.counts.seen += len(names)
                    patience.worked()
                    cursor = after
                    self._state.save(number=number, cursor=cursor, counts=vars(self.counts))
                    if self._show is not None:
                        part = (swept(cursor) - began_at) / (1 - began_at)
                        self._show(Progress(number, part, time.monotonic() - start, self.counts))
                finished = True
            except ServerUnavailableError as error:
                await patience.failed(error)
                await self._sweep.reopen_or_wait(patience)

    async def _step(self, names: list[bytes]) -> None:
        ours = [name for name in names if _is_text(name)]
        self.counts.unreadable += len(names) - len(ours)
        names = ours
        hashed = [name for name in names if is_hashed_name(_text(name))]
        headers = dict(zip(hashed, await self._sweep.headers(hashed), strict=True))
        wanted = [name for name in names if self._plans.concerns(_text(name), headers.get(name, b""))]
        for first in range(0, len(wanted), BATCH):
            part = wanted[first : first + BATCH]
            await self._pace.take(len(part))
            await self._until_settled(part)

    async def _until_settled(self, names: list[bytes]) -> None:
        """Move a batch; what others wrote to meanwhile is tried again, in smaller parts."""
        waiting = [names]
        tries = 0
        while waiting:
            part = waiting.pop()
            again = await self._batch(part)
            if not again:
                continue
            if len(again) == len(part):  # somebody wrote to one of them
                self.counts.conflicts += 1
                tries += 1
                if tries > BATCH:
                    self.counts.left += len(again) + sum(map(len, waiting))
                    return
                half = (len(again) + 1) // 2
                waiting += [each for each in (again[half:], again[:half]) if each]
            else:  # too much for one transaction
                waiting.append(again)

    async def _batch(self, names: list[bytes]) -> list[bytes]:
        """Move these; returns those to try again."""
        self._lay = {}
        for operation in {operation_of(_text(name)) for name in names}:
            if self._epochs.due(operation):
                await self._epochs.refresh(operation)
        moves, dead, doubtful = await self._read(names)
        if doubtful:  # the epochs may have changed within the last second: ask again before anything is removed
            self._epochs.expire()
            for operation in {operation_of(_text(name)) for name in doubtful}:
                await self._epochs.refresh(operation)
            moves, dead, doubtful = await self._read(names)
            dead += doubtful
        if self._dry:
            for move in moves.values():
                self._count(move)
            self.counts.invalidated += len(dead)
            return []
        return await self._commit(names, moves, dead)

    _watches = True

    async def _read(self, names: list[bytes]) -> tuple[dict[bytes, Move], list[bytes], list[bytes]]:
        """The plan for what lies at these names, watched from now on: moves, names to remove, names that seem to be of before."""
        watch: list[Command] = [("WATCH", *names)] if self._watches and not self._dry else []
        questions = [question for name in names for question in (("GET", name), ("PTTL", name))]
        replies = await self._sweep.ask_many([*watch, *questions])
        if watch and isinstance(replies[0], RedkeepError):
            raise replies[0]
        replies = replies[len(watch) :]
        moves: dict[bytes, Move] = {}
        dead: list[bytes] = []
        doubtful: list[bytes] = []
        now_ms = int(time.time() * 1000)
        seen: dict[str, int] = {}
        foreign: dict[str, int] = {}
        for name, stored, left in zip(names, replies[::2], replies[1::2], strict=True):
            if stored is None or left == GONE:
                continue
            if isinstance(stored, RedkeepError) and not isinstance(stored, ConfigurationError):  # which it is for a list or a set
                raise stored
            verdict = "unreadable"
            if isinstance(stored, bytes) and isinstance(left, int):
                self._lay[name] = stored
                plan = self._plans.plan(_text(name), stored, left, now_ms=now_ms, last=self._last)
                if isinstance(plan, Move):
                    moves[name] = plan
                    continue
                verdict = plan
                if verdict == "unreadable" and is_envelope(stored):
                    _tally(foreign, _key_id(stored))
            if verdict == "invalidated":
                (doubtful if is_hashed_name(_text(name)) else dead).append(name)
            _tally(seen, verdict)
        if not doubtful:
            self.counts.unreadable += seen.get("unreadable", 0)
            self.counts.without_old_name += seen.get("without an old name", 0)
            self.counts.left += seen.get("later", 0)
            for key_id, count in foreign.items():
                self.counts.foreign[key_id] = self.counts.foreign.get(key_id, 0) + count
        return moves, dead, doubtful

    async def _commit(self, names: list[bytes], moves: dict[bytes, Move], dead: list[bytes]) -> list[bytes]:
        """Carry out a plan while nobody else writes to its names; returns the names to try again."""
        taken, superseded = await self._occupied(moves)
        again: list[bytes] = []
        commands: list[Command] = [("MULTI",)]
        size, done, targets = 0, dict[bytes, Move](), set[str]()
        for name, move in moves.items():
            if name in taken or move.target in targets:
                if name not in superseded:
                    self.counts.left += 1
                continue
            if size and size + len(move.stored) > COMMIT_BYTES:
                again.append(name)
                continue
            size += len(move.stored)
            targets.add(move.target)
            done[name] = move
            target = move.target.encode("utf-8", "surrogatepass")
            commands.append(("SET", target, move.stored, *(("PX", move.milliseconds) if move.milliseconds else ())))
            if target != name:
                commands.append(("UNLINK", name))
        removed = [*dead, *superseded]
        if removed:
            commands.append(("UNLINK", *removed))
        await self._mark(done.values())
        replies = await self._sweep.ask_many([*commands, ("EXEC",)])
        result = replies[-1]
        for reply in (*replies, *(result if isinstance(result, list) else ())):
            if isinstance(reply, RedkeepError):  # refused before EXEC: the whole transaction was
                raise reply
        if result is None and len(commands) > 1:
            return names
        for move in done.values():
            self._count(move)
        self.counts.invalidated += len(dead)
        self.counts.superseded += len(superseded)
        await self._compare(done)
        return again

    async def _occupied(self, moves: dict[bytes, Move]) -> tuple[set[bytes], list[bytes]]:
        """Whose place is taken already, watched too; and of those the ones to give up, as what is there counts more.

        A writer first writes, then removes what lies elsewhere: at the first sight nothing is given up, he may be in between.
        """
        wanted = {name: move.target.encode("utf-8", "surrogatepass") for name, move in moves.items() if not move.overwrites}
        if not wanted:
            return set(), []
        watch: Command = ("WATCH", *wanted.values())
        refused, *replies = await self._sweep.ask_many([watch, *(("EXISTS", target) for target in wanted.values())])
        if isinstance(refused, RedkeepError):
            raise refused
        taken = {name for name, reply in zip(wanted, replies, strict=True) if reply}
        return taken, [name for name in taken if self._last]

    async def _mark(self, moves: Any) -> None:
        """Let the clients know that there are aliases, before the first and until the last."""
        ends = [move.milliseconds for move in moves if move.alias]
        if not ends:
            return
        now = time.time() * 1000
        until = math.inf if 0 in ends else now + max(ends)
        if until <= self._marked_until:
            return
        marker = self._epochs.marker
        known = await self._ask("PTTL", marker)
        if known == NO_END:
            self._marked_until = math.inf
        elif known > 0:
            self._marked_until = now + known
        if until > self._marked_until:
            until = until if until == math.inf else until + 600_000  # so that it is not written for each batch
            await self._ask("SET", marker, "1", *(() if until == math.inf else ("PX", int(until - now))))
            self._marked_until = until
        if known == GONE:  # clients ask once a second; whatever was watched must be read again
            await asyncio.sleep(REFRESH_SECONDS * 1.2)

    async def _compare(self, done: dict[bytes, Move]) -> None:
        """Read one of what was moved, as a sample. Raises DecryptionError when it is not what it was."""
        for move in done.values():
            found = await self._ask("GET", move.target.encode("utf-8", "surrogatepass"))
            if found != move.stored:  # an application has written or removed it meanwhile
                return
            if not self._plans.opens_to(move, found):
                raise DecryptionError("a moved entry does not decrypt to its original value; nothing more was moved: report this")
            self.counts.compared += 1
            return

    async def _all_returned(self) -> None:
        """A hook: nothing sealed is left on what was swept."""
        await self._begin_anew()

    async def _begin_anew(self) -> None:
        """Nothing sealed is left: take the marks of invalidations away, which would make a later window ignore readable names."""
        async for name in self._sweep.scan(f"{self._epochs.prefix}*"):
            if is_renewed(await self._ask("GET", name)):
                await self._ask("SET", name, first_word())
        await self._ask("UNLINK", self._epochs.marker)

    def _count(self, move: Move) -> None:
        if move.kind == "readable":
            self.counts.readable += 1
        elif move.kind == "older key":
            self.counts.older_key += 1
        else:
            self.counts.returned += 1


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _is_text(name: bytes) -> bool:
    try:
        return _text(name) is not None
    except UnicodeDecodeError:
        return False


def _key_id(stored: bytes) -> str:
    try:
        return read_header(stored).key_id.hex()
    except DecryptionError:
        return "unknown"


def _tally(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
