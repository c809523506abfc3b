"""The places of a value: the name where it belongs, the others where it may lie from before, and the origin that is sealed with it.

    hashed      under another key of the ring: another process seals with that one, or has until now
    readable    as the old class named it, read only while a migration window is open and nothing was invalidated
    alias       where `redkeep migrate-data` has put what lay at a readable name: a hash of that name stands for the request
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from redkeep.cache.base import OlderName
from redkeep.cache.keys import ENTRY_OPERATION, PREFIX, HashedNames, is_hashed_name, operation_of
from redkeep.cache.origin import NO_ORIGIN, Origin

if TYPE_CHECKING:
    from redkeep.cache.epochs import Epochs
    from redkeep.crypto.keyring import KeyRing

KNOWN: Final = 1_000
"""Entries whose name and origin are kept: making both takes 2 us of a read's 12 (CPython 3.11)."""

_LONGEST_KNOWN: Final = 256
"""Characters of a key: what is kept takes half a megabyte at most."""

Request = tuple[str, Mapping[str, Any] | None, str | None]
"""Text, options, question."""


class Places:
    """Of one namespace, under the epochs of the moment."""

    def __init__(self, ring: KeyRing, namespace: str, epochs: Epochs, *, window: bool, readable: Callable[..., str]) -> None:
        """`window`: whether old readable names are read; `readable` makes such a name of operation and request."""
        self._namespace = namespace
        self._names = HashedNames(ring, namespace)
        self._epochs = epochs
        self._window = window
        self._readable = readable
        self._known: dict[str, tuple[str, bytes]] = {}
        self._known_epochs = ""

    def rekey(self, ring: KeyRing) -> None:
        """Name under another ring from now on."""
        self._names = HashedNames(ring, self._namespace)
        self._known.clear()

    @property
    def several(self) -> bool:
        """Whether there are others than the one where a value belongs."""
        return self._names.several or self._window or self._epochs.aliases

    @property
    def may_share_a_name(self) -> bool:
        """Whether two requests may meet at a place, as they did at readable names."""
        return self._window or self._epochs.aliases

    def name(self, operation: str, text: str, options: Mapping[str, Any] | None, question: str | None) -> str:
        """Where the answer to a request belongs."""
        return self._names.named(operation, text, options, question, epochs=self._epochs.tag(operation))[0]

    def older(self, operation: str, text: str, options: Mapping[str, Any] | None, question: str | None) -> list[OlderName]:
        """Where else it may lie, in the order in which a value counts."""
        readable = self._readable(text, operation, options, question) if self.may_share_a_name else ""
        return self._older(operation, self._names.request(operation, text, options, question), readable)

    def origin(self, operation: str, text: str, options: Mapping[str, Any] | None, question: str | None) -> bytes:
        """What is sealed with it."""
        readable = self._readable(text, operation, options, question) if self._window else ""
        return Origin(self._names.request(operation, text, options, question), readable).encode()

    def entry(self, key: str) -> str:
        """Where the value for a key of the caller's own belongs; a hashed name is its own."""
        return self._entry(key)[0]

    def entry_origin(self, key: str) -> bytes:
        """What is sealed with it."""
        return self._entry(key)[1]

    def _entry(self, key: str) -> tuple[str, bytes]:
        epochs = self._epochs.tag(ENTRY_OPERATION)
        if epochs != self._known_epochs:
            self._known.clear()
            self._known_epochs = epochs
        known = self._known.get(key)
        if known is not None:
            return known
        if is_hashed_name(key):
            return key, NO_ORIGIN
        name, request = self._names.named(ENTRY_OPERATION, key, None, None, epochs=epochs)
        readable = key if self._window and key.startswith(PREFIX) else ""
        made = name, Origin(request, readable).encode()
        if len(key) <= _LONGEST_KNOWN:
            if len(self._known) >= KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = made
        return made

    def older_entry(self, key: str) -> list[OlderName]:
        """Where else it may lie. Readable keys outside `ai_cache:` are none of ours."""
        if is_hashed_name(key):
            return []
        readable = key if self.may_share_a_name and key.startswith(PREFIX) else ""
        return self._older(ENTRY_OPERATION, self._names.request(ENTRY_OPERATION, key, None, None), readable)

    def _older(self, operation: str, request: bytes, readable: str) -> list[OlderName]:
        epochs = self._epochs
        places = [OlderName(name, False) for name in self._names.under_each_key(operation, request, epochs=epochs.tag(operation))[1:]]
        if readable:
            if self._window and epochs.untouched(operation):
                places.append(OlderName(readable, True))
            former = operation_of(readable)
            alias = self._names.under_each_key(former, self._names.readable(readable), epochs=epochs.tag(former))
            places += [OlderName(name, False, alias=True) for name in alias]
        return places
