"""A census of the entries on a server: how many each key has sealed, by what their first bytes say, and how many are readable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from redkeep.cache.keys import is_hashed_name
from redkeep.crypto.envelope import HEADER_BYTES, KEY_ID, is_envelope
from redkeep.errors import ConfigurationError, ServerUnavailableError
from redkeep.migration.progress import Pace, swept
from redkeep.migration.sweep import Patience, Sweep
from redkeep.target import Target

RATE: Final = 20_000
"""Entries a second: 31 bytes of each are read."""

LOOK_SECONDS: Final = 10.0
"""How long a run looks before it begins: at all of 200,000 entries, at a sample of more, for SCAN follows hashes of names."""


@dataclass
class Census:
    """`sealed` counts by key id, in hex; `readable` lie at readable names, `other` are neither. An entry can be counted twice
    when Redis resizes its table meanwhile, never left out when it was there all the time."""

    sealed: dict[str, int] = field(default_factory=dict)
    readable: int = 0
    other: int = 0

    @classmethod
    def parse(cls, document: object) -> Self:
        """From the JSON that `redkeep migrate-data --count --json` prints. Raises ConfigurationError."""
        if isinstance(document, Mapping) and isinstance(sealed := document.get("sealed"), Mapping):
            counts = [document.get("readable"), document.get("other"), *sealed.values()]
            if all(isinstance(count, int) and count >= 0 for count in counts):
                return cls(dict(sealed), *counts[:2])
        raise ConfigurationError("these are no counts; give what `redkeep migrate-data --count --json` prints")

    def plus(self, other: Census) -> Census:
        """Both together, as of two servers."""
        sealed = {key: self.sealed.get(key, 0) + other.sealed.get(key, 0) for key in {**self.sealed, **other.sealed}}
        return Census(sealed, self.readable + other.readable, self.other + other.other)

    def refusal(self, key_ids: Iterable[str]) -> str:
        """Why these keys must not go yet, in a sentence; empty when nothing is sealed with them."""
        used = [f"{self.sealed[key_id]:,} with {key_id}" for key_id in key_ids if self.sealed.get(key_id)]
        return f"entries still encrypted with old keys: {', '.join(used)}" if used else ""

    def unknown(self, key_ids: Collection[str]) -> str:
        """What nobody with these keys can open, in words: entries that were seen, by key id; empty when there are none."""
        found = [f"{count:,} with key {key_id}" for key_id, count in sorted(self.sealed.items()) if key_id not in key_ids]
        return f"entries are encrypted with a key that is not in the key ring (at least {', '.join(found)})" if found else ""


async def take_census(
    target: Target,
    *,
    rate: float = RATE,
    seconds: float = math.inf,
    in_a_cluster: bool = False,
    show: Callable[[float, int], None] | None = None,
) -> Census:
    """Count by a sweep over all names, which ends early after so many `seconds`. `show` gets the part done, 0 to 1, and the entries
    seen so far; `in_a_cluster` says that the server's part of a Cluster is all that is asked for.

    Raises ConfigurationError when nobody here may SCAN, and the leaves of our error tree.
    """
    census, sweep, patience = Census(), Sweep(target, pace=Pace(rate * 0.1), in_a_cluster=in_a_cluster), Patience()
    cursor, seen, finished, end = 0, 0, False, time.monotonic() + seconds
    async with sweep:
        while not finished:
            try:
                async for after, names in sweep.steps(cursor):
                    _count(census, names, await sweep.headers(names))
                    patience.worked()
                    cursor, seen = after, seen + len(names)
                    if show is not None:
                        show(swept(cursor), seen)
                    if time.monotonic() > end:
                        break
                finished = True
            except ServerUnavailableError as error:
                await patience.failed(error)
                await sweep.reopen_or_wait(patience)
    return census


def _count(census: Census, names: list[bytes], headers: list[bytes]) -> None:
    for name, header in zip(names, headers, strict=True):
        if not header:
            continue  # it has ended since, or is no plain value
        if not is_hashed_name(name.decode("utf-8", "replace")):
            census.readable += 1
        elif is_envelope(header) and len(header) == HEADER_BYTES:
            key_id = header[KEY_ID].hex()
            census.sealed[key_id] = census.sealed.get(key_id, 0) + 1
        else:
            census.other += 1
