"""Memory tier and breaker: bounds in entries, bytes and time; who may try, and when."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redkeep.cache.breaker import FAILURES, FIRST_WAIT, LONGEST_WAIT, PROBE_LIMIT, REFUSED_WAIT, Breaker
from redkeep.cache.memory import MemoryTier


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def tier(**changes: Any) -> MemoryTier:
    return MemoryTier(**{"max_entries": 3, "decode": lambda key, stored: json.loads(stored), **changes})


def test_least_recently_used_goes_first() -> None:
    """Reading keeps an entry alive."""
    memory = tier()
    for key in "abc":
        memory.put_bytes(key, b"1", seconds=9)
    memory.get_bytes("a")
    memory.put_bytes("d", b"1", seconds=9)
    assert memory.keys() == ["c", "a", "d"]


def test_entries_end() -> None:
    """After its time an entry is not there, whoever asks and how."""
    clock = Clock()
    memory = tier(clock=clock)
    memory.put_bytes("a", b"1", seconds=5)
    clock.now += 5
    assert ("a" in memory, len(memory), memory.get("a", 7), memory.keys()) == (False, 0, 7, [])
    assert memory.get_bytes("a") is None
    assert memory.bytes_used == 0


def test_bounded_by_bytes() -> None:
    """Large values push others out; one larger than the tier is not kept, and what it replaced is gone."""
    memory = tier(max_entries=100, max_bytes=2000)
    for number in range(10):
        memory.put_bytes(str(number), b"x" * 300, seconds=9)
    assert 0 < len(memory) < 10
    memory.put_bytes("9", b"x" * 3000, seconds=9)
    assert "9" not in memory
    assert memory.bytes_used <= 2000


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 400), st.sampled_from(["put", "get", "pop", "where"])), max_size=60))
def test_bounds_hold_whatever_happens(steps: list[tuple[str, int, str]]) -> None:
    """The count of bytes is true after any sequence of calls."""
    memory = tier(max_bytes=1000)
    for key, size, action in steps:
        if action == "put":
            memory.put_bytes(key, b"x" * size, seconds=9)
        elif action == "get":
            memory.get_bytes(key)
        elif action == "pop":
            memory.pop(key)
        else:
            memory.pop_where(lambda name, key=key: name > key)
        assert len(memory) <= 3
        assert memory.bytes_used <= 1000
        assert (memory.bytes_used == 0) == (len(memory) == 0)
    memory.clear()
    assert memory.bytes_used == 0


def test_it_looks_like_a_dictionary_and_gives_copies() -> None:
    """What the old attribute could do; each read is an object of its own."""
    memory = tier()
    assert memory == {}
    memory.put_bytes("a", b'{"x": [1]}', seconds=9)
    memory["a"]["x"].append(2)
    assert (memory["a"], list(memory), memory.items(), memory.values()) == ({"x": [1]}, ["a"], [("a", {"x": [1]})], [{"x": [1]}])
    assert memory == {"a": {"x": [1]}}
    assert "MemoryTier(1 of 3" in repr(memory)
    with pytest.raises(KeyError):
        memory["b"]


def test_no_entries_allowed() -> None:
    """Size 0 turns the tier off."""
    memory = tier(max_entries=0)
    memory.put_bytes("a", b"1", seconds=9)
    assert len(memory) == 0


def breaker(clock: Clock) -> Breaker:
    return Breaker(clock=clock, jitter=lambda: 1.0)


def test_single_failures_do_not_open() -> None:
    """A success between starts the count anew."""
    subject = breaker(Clock())
    for _ in range(10):
        assert not any(subject.failure() for _ in range(FAILURES - 1))
        subject.success()
    assert (subject.state, subject.opened) == ("closed", 0)


def test_it_opens_once_and_lets_one_probe_through() -> None:
    """Many callers report one trouble; after the wait one may try, and its success closes."""
    clock = Clock()
    subject = breaker(clock)
    assert [subject.failure() for _ in range(10)].count(True) == 1
    assert (subject.state, subject.allow()) == ("open", False)
    clock.now += FIRST_WAIT
    assert subject.state == "half-open"
    assert [subject.allow() for _ in range(3)] == [True, False, False]
    assert subject.success()
    assert (subject.state, subject.allow(), subject.opened) == ("closed", True, 1)


def test_a_probe_without_an_outcome_gives_way_after_a_wait() -> None:
    """Cancelled or refused for a reason of its own, it opens nothing, closes nothing, and keeps others out no longer than a failure."""
    clock = Clock()
    subject = breaker(clock)
    subject.undecided()
    assert (subject.state, subject.failures) == ("closed", 0)
    subject.failure(connecting=True)
    clock.now += FIRST_WAIT
    assert subject.allow()
    subject.undecided()
    subject.undecided()
    assert not subject.allow()
    clock.now += LONGEST_WAIT
    assert [subject.allow(), subject.allow()] == [True, False]


def test_waits_grow_to_their_bound() -> None:
    """A server that stays away is asked every two seconds at most: recovery stays under five."""
    clock = Clock()
    subject = breaker(clock)
    subject.failure(connecting=True)
    waits = []
    for _ in range(10):
        start = clock.now
        while not subject.allow():
            clock.now += 0.05
        waits.append(clock.now - start)
        subject.failure(connecting=True)
    assert waits[0] < FIRST_WAIT * 1.5
    assert max(waits) <= LONGEST_WAIT + 0.1
    assert waits == sorted(waits)


def test_a_refusal_waits_longer() -> None:
    """A refused login is not tried again at once: it would look like guessing."""
    clock = Clock()
    subject = breaker(clock)
    subject.failure(refused=True)
    clock.now += REFUSED_WAIT - 1
    assert not subject.allow()
    subject.reset()
    assert subject.allow()


def test_a_lost_probe_does_not_lock_the_breaker() -> None:
    """A probe whose task was cancelled reports nothing; another may try later."""
    clock = Clock()
    subject = breaker(clock)
    subject.failure(connecting=True)
    clock.now += FIRST_WAIT
    assert subject.allow()
    clock.now += PROBE_LIMIT
    assert subject.allow()
