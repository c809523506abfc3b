"""Epochs: invalidation of an operation, or of everything, by one write instead of a scan.

Every hashed name contains two random words that lie in Redis: one of the namespace, one of the operation. A new word makes all
names new, and what lies under the old ones goes with its time. A process asks for the words again after a second, so that an
invalidation reaches the others, and their memory tiers, within it; in the process that made it, it holds at once.

A word that is absent is made anew, not assumed: a lost one (evicted, flushed) makes the cache cold, and never brings back what
was invalid. Words are not sealed: who plants one gets misses, since nothing was ever named with it. One that a process has seen
replaced (played back, or a replica that lagged when it took over) is not believed by that process again, and it invalidates anew
(ADR 14). A value computed before an invalidation and stored after it lands under the old name, where nobody looks.

With the words comes a marker: whether `redkeep migrate-data` has left values under aliases, where a lookup that misses then asks.
It goes with the last of them. Like a word it is not sealed: a planted one costs a read for each miss.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redkeep.cache.keys import LOCK_PREFIX, PREFIX, operation_label
from redkeep.errors import RedkeepError, ServerUnavailableError

REFRESH_SECONDS: Final = 1.0
EPOCH_PREFIX: Final = f"{PREFIX}epoch:"
NOT_ENTRIES: Final = (EPOCH_PREFIX.encode(), LOCK_PREFIX.encode())
"""How names begin that are ours and hold nobody's value."""
EVERYTHING: Final = "\0"
"""In the place of an operation; the empty text is an operation of its own."""

_PREFIX: Final = EPOCH_PREFIX.encode()
_WORD: Final = re.compile(rb"[0-9a-f]{16}")
_FIRST, _RENEWED = "0", "f"
"""The first digit of a word tells whether it was made because there was none, or by an invalidation."""

_MAX_OPERATIONS: Final = 1_000
_MAX_REPLACED: Final = 10_000

Ask = Callable[..., Awaitable[Any]]


class Epochs:
    """The words of one namespace."""

    def __init__(self, ask: Ask, namespace: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`ask` executes one Redis command."""
        self._ask = ask
        self.aliases = False
        """Whether there are values under aliases."""
        self._namespace = namespace
        self._clock = clock
        self._words: dict[str, str] = {}
        self._pending: set[str] = set()
        self._replaced: dict[str, None] = {}  # in the order in which they were
        self._due = 0.0
        self._asking: asyncio.Future[None] | None = None
        self._failures = 0
        self._tags: dict[str, str] = {}

    def tag(self, operation: str) -> str:
        """What goes into the names of `operation`. Before the first refresh a word of this process alone."""
        tag = self._tags.get(operation)
        if tag is None:
            tag = self._words.get(EVERYTHING, "-") + self._words.get(operation, "-")
            self._tags[operation] = tag
        return tag

    def due(self, operation: str) -> bool:
        """Whether `refresh` must come before the next name."""
        return self._clock() >= self._due or operation not in self._words

    def changed(self, name: bytes) -> None:
        """The server says that this name has changed. If a word lies there, ask for the words with the next call."""
        if name.startswith(_PREFIX):
            self._due = 0.0

    def untouched(self, operation: str) -> bool:
        """Whether nothing of `operation` was invalidated since its word was made: readable names of before still count."""
        return all(self._words.get(each, _RENEWED).startswith(_FIRST) for each in (EVERYTHING, operation))

    def expire(self) -> None:
        """Let the words be asked for again before the next name."""
        self._due = 0.0

    async def refresh(self, operation: str) -> None:
        """Ask for the words. Raises what `ask` raises, to everyone who waited for it; the words then stay as they were."""
        failures = self._failures
        while self.due(operation):
            if self._failures != failures:  # whoever asked while we waited got no answer: a queue of such would take for ever
                raise ServerUnavailableError("Redis did not return the cache's epochs a moment ago")
            loop, asking = asyncio.get_running_loop(), self._asking
            if asking is None or asking.get_loop() is not loop:
                await self._lead(operation, loop.create_future())
            else:  # not a lock: all who wait go on in one turn of the loop, and their commands in one write
                await asyncio.shield(asking)

    async def _lead(self, operation: str, asking: asyncio.Future[None]) -> None:
        self._asking = asking
        try:
            await self._ask_for(operation)
        except RedkeepError:
            self._failures += 1
            raise
        finally:
            if self._asking is asking:
                self._asking = None
            if not asking.get_loop().is_closed():
                asking.set_result(None)

    async def _ask_for(self, operation: str) -> None:
        if len(self._words) > _MAX_OPERATIONS:  # operations made from user input must not pile up
            self._words = {each: self._words[each] for each in self._pending}
        for pending in list(self._pending):
            await self._put(pending, self._words[pending])
        wanted = list({EVERYTHING: 0, operation: 0, **dict.fromkeys(self._words)})
        before = dict(self._words)
        *found, marker = await self._ask("MGET", *map(self._name, wanted), self.marker)
        self.aliases = marker is not None
        for each, word in zip(wanted, found, strict=True):
            known = word.decode() if isinstance(word, bytes) and _WORD.fullmatch(word) else await self._make(each, word)
            if self._words.get(each) != before.get(each):  # it was renewed while we asked
                continue
            if known in self._replaced:
                await self.renew(each)
            else:
                self._learn(each, known)
        self._tags.clear()
        self._due = self._clock() + REFRESH_SECONDS

    async def renew(self, operation: str) -> None:
        """Invalidate what was named for `operation`, or EVERYTHING. Raises what `ask` raises.

        Also then: this process uses the new word at once, and writes it with the next refresh that succeeds.
        """
        word = _new_word(_RENEWED)
        self._learn(operation, word)
        self._tags.clear()
        self._pending.add(operation)
        await self._put(operation, word)

    def _learn(self, operation: str, word: str) -> None:
        former = self._words.get(operation, word)
        self._words[operation] = word
        if former != word:
            self._replaced[former] = None
            if len(self._replaced) > _MAX_REPLACED:
                del self._replaced[next(iter(self._replaced))]

    async def _put(self, operation: str, word: str) -> None:
        await self._ask("SET", self._name(operation), word)
        if self._words.get(operation) == word:
            self._pending.discard(operation)

    async def _make(self, operation: str, found: object) -> str:
        """A new word in place of an absent one, or of what is none. Another process may have been first."""
        known = self._words.get(operation, _FIRST)
        word = _new_word(_RENEWED if known.startswith(_RENEWED) else _FIRST)  # lost, but what was invalid stays so
        if found is None:
            await self._ask("SET", self._name(operation), word, "NX")
        else:
            await self._ask("SET", self._name(operation), word)
        again = await self._ask("GET", self._name(operation))
        if not isinstance(again, bytes) or not _WORD.fullmatch(again):
            raise ServerUnavailableError("Redis does not store the cache's epochs: is it out of memory?")
        return again.decode()

    @property
    def marker(self) -> str:
        """The key of the marker that says whether there are aliases."""
        return self._key(".aliases|")

    def _name(self, operation: str) -> str:
        return self._key(operation_label(operation))

    @property
    def prefix(self) -> str:
        """How all keys of this namespace begin."""
        return EPOCH_PREFIX + hashlib.sha256(self._namespace.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def _key(self, label: str) -> str:
        scope = f"{len(self._namespace)}:{self._namespace}{label}".encode("utf-8", "surrogatepass")
        return self.prefix + hashlib.sha256(scope).hexdigest()[:32]


def is_renewed(word: object) -> bool:
    """Whether a word, as it lies in Redis, was made by an invalidation."""
    return isinstance(word, bytes) and word.startswith(_RENEWED.encode())


def first_word() -> str:
    """A word as it is made where there was none: readable names of before count."""
    return _new_word(_FIRST)


def _new_word(kind: str) -> str:
    return kind + secrets.token_hex(8)[1:]
