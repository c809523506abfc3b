"""Where a key lies in a Cluster, by the specification's own examples, and how a command of several keys is taken apart."""

from __future__ import annotations

import pytest

from redkeep.access.slots import Node, SlotMap, slot_of, split
from redkeep.errors import ConfigurationError


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 0x31C3),
        ("foo", 12182),
        (b"foo{}{bar}", slot_of("foo{}{bar}")),
        ("{user1000}.following", slot_of("user1000")),
        ("foo{{bar}}zap", slot_of("{bar")),
        ("foo{bar}{zap}", slot_of("bar")),
        ("", 0),
    ],
)
def test_a_key_has_the_slot_that_the_specification_says(key: str | bytes, slot: int) -> None:
    """CRC-16/XMODEM of the key, or of what stands in its first braces when that is something."""
    assert slot_of(key) == slot


def test_braces_without_content_do_not_count() -> None:
    """`foo{}{bar}` is hashed as a whole."""
    assert slot_of("foo{}{bar}") not in (slot_of("bar"), slot_of(""))


def test_a_command_of_several_keys_is_taken_apart() -> None:
    """One command a slot, and the places of its keys in the one that was asked."""
    assert split(("MGET", "{a}1", "{b}1", "{a}2")) == [([0, 2], ("MGET", "{a}1", "{a}2")), ([1], ("MGET", "{b}1"))]
    assert split(("SET", "a", "b")) == [([0], ("SET", "a", "b"))]
    assert split(("PING",)) == [([0], ("PING",))]
    with pytest.raises(ConfigurationError, match="MSET does not work in a Cluster"):
        split(("MSET", "a", "1", "b", "2"))


def test_the_map_is_read_from_what_a_server_says() -> None:
    """Ranges with their primary, replicas left out; no host means the one that was asked; what is missing is counted."""
    found = SlotMap.parse([[0, 5, [b"10.0.0.1", 6380, b"id"], [b"10.0.0.9", 6380, b"id"]], [10, 16383, [None, 6381, b"id"]]], asked="here")
    assert found.primaries == (Node("10.0.0.1", 6380), Node("here", 6381))
    assert found.missing == 4
    for wrong in (b"no", [[1]], [[0, 1, []]], None):
        with pytest.raises(ConfigurationError, match="cannot be read; check what listens there"):
            SlotMap.parse(wrong, asked="here")
