"""Redis Cluster's map: which slot a key is of, and which server has a slot. Plain values; nothing connects.

The hash is CRC-16/XMODEM over the key, or over what stands in its first braces, modulo 16384 (Redis Cluster specification, "Key
distribution model" and "Hash tags").
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from redkeep.access.client import Argument, Command
from redkeep.access.commands import name_of
from redkeep.errors import ConfigurationError

SLOTS: Final = 16_384

_MANY: Final = frozenset({"MGET", "DEL", "UNLINK", "EXISTS"})
_KEYLESS: Final = frozenset({"PING", "ECHO", "TIME", "DBSIZE", "INFO", "SCAN", "CLIENT"})
_ELSEWHERE: Final = frozenset({"MSET", "MEMORY", "OBJECT", "EVAL", "EVALSHA"})
"""Commands whose keys stand elsewhere than behind the name; the cache uses none."""


class Node(NamedTuple):
    """A server of the Cluster, by the address it gives of itself."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass
class SlotMap:
    """The primaries, by slot."""

    owners: dict[int, Node] = field(default_factory=dict)

    @classmethod
    def parse(cls, reply: object, *, asked: str) -> SlotMap:
        """From the reply to CLUSTER SLOTS; `asked` is the host that gave it, which is meant where none is named.

        Raises ConfigurationError for what is no such reply.
        """
        found: dict[int, Node] = {}
        try:
            for first, last, (host, port, *_), *_replicas in reply:  # type: ignore[attr-defined]
                node = Node(host.decode() if host and host != b"?" else asked, int(port))
                found.update(dict.fromkeys(range(int(first), int(last) + 1), node))
        except (AttributeError, TypeError, ValueError):
            raise ConfigurationError(f"{asked}: its reply to CLUSTER SLOTS cannot be read; check what listens there") from None
        return cls(found)

    @property
    def primaries(self) -> tuple[Node, ...]:
        """Every server that has slots, in the order of these."""
        return tuple(dict.fromkeys(self.owners[slot] for slot in sorted(self.owners)))

    @property
    def missing(self) -> int:
        """Slots that no server has."""
        return SLOTS - len(self.owners)


def slot_of(key: Argument) -> int:
    """The slot of a key."""
    name = key if isinstance(key, bytes) else str(key).encode()
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % SLOTS


def keys_of(command: Sequence[Argument]) -> tuple[Argument, ...]:
    """The keys of one of the commands that a cache sends. Raises ConfigurationError for one whose keys are not known."""
    name = name_of(command)
    if name in _MANY:
        return tuple(command[1:])
    if name in _ELSEWHERE:
        raise ConfigurationError(f"{name} does not work in a Cluster: its keys may be on several servers")
    return () if name in _KEYLESS else tuple(command[1:2])


def split(command: Command) -> list[tuple[list[int], Command]]:
    """A command as one for each slot of its keys, with the places of these keys in it. Raises as `keys_of` does."""
    keys = keys_of(command)
    if len(keys) < 2:
        return [([0], command)]
    parts: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        parts.setdefault(slot_of(key), []).append(place)
    return [(places, (command[0], *(keys[place] for place in places))) for places in parts.values()]
