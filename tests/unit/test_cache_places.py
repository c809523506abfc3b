"""Where an entry belongs: the same place each time it is asked, another one under another key or other epochs."""

from __future__ import annotations

import asyncio
from typing import Any

from redkeep.cache.epochs import Epochs
from redkeep.cache.places import KNOWN, Places
from redkeep.crypto.keyring import KeyRing, generate_key


async def redis_of_nothing(*command: Any) -> Any:
    """Takes every word, and has none of its own."""
    return b"OK"


def places(epochs: Epochs, ring: KeyRing, *, window: bool = False) -> Places:
    """Of the namespace "team"."""
    return Places(ring, "team", epochs, window=window, readable=lambda *_: "")


def ring() -> KeyRing:
    """With one new key."""
    return KeyRing.from_strings([generate_key()])


def test_an_entry_keeps_its_place() -> None:
    """The name and the origin are the same when they are asked for again, and each key has its own."""
    made = places(Epochs(redis_of_nothing, "team"), ring(), window=True)
    first = [(made.entry(key), made.entry_origin(key)) for key in ("a", "ai_cache:a", "b" * 300)]
    assert [(made.entry(key), made.entry_origin(key)) for key in ("a", "ai_cache:a", "b" * 300)] == first
    assert len(set(first)) == 3
    assert made.entry(first[0][0]) == first[0][0], "a hashed name is its own"


def test_a_new_key_and_a_new_epoch_move_it() -> None:
    """Nothing of the old ring or of before an invalidation is kept."""
    epochs = Epochs(redis_of_nothing, "team")
    made = places(epochs, ring())
    names = [made.entry("a")]
    made.rekey(ring())
    names.append(made.entry("a"))
    asyncio.run(epochs.renew("_entry"))
    names.append(made.entry("a"))
    assert len(set(names)) == 3


def test_what_is_kept_is_bounded() -> None:
    """Many keys and long ones: the places stay right, and few are remembered."""
    made, fresh = (places(Epochs(redis_of_nothing, "team"), one) for one in [ring()] * 2)
    for number in range(KNOWN + 50):
        made.entry(f"key {number}")
    made.entry("k" * 100_000)
    assert len(made._known) == KNOWN
    assert max(map(len, made._known)) < 1_000
    for number in (0, 49, 50, KNOWN + 49):
        assert made.entry(f"key {number}") == fresh.entry(f"key {number}")
