"""Which commands may go on a shared connection, and which may go twice."""

from __future__ import annotations

import pytest

from redkeep.access.commands import ONCE, RULES, admit, admit_batch, may_answer, may_repeat, name_of, rule_of
from redkeep.errors import ConfigurationError


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "k"), (b"get", "k"), ("MGET", "a", "b"), ("Ttl", "k"), ("PING",), ("DEL", "k"), ("UNLINK", "k"), ("EXISTS", "k"),
        ("SET", "k", "v"), ("SET", "k", "v", "EX", 60), ("set", "k", "NX", "px", "60"), (b"SET", b"k", b"v", b"EXAT", 1999999999),
        ("SET", "k", "v", "XX", "EX", 60), ("EXPIRE", "k", 60), ("PEXPIRE", "k", "60"), ("EXPIRE", "k", -1),
        ("SETEX", "k", 60, "v"),
    ],
)  # fmt: skip
def test_may_go_twice(command: tuple[str | bytes | int, ...]) -> None:
    """Reads, and writes that leave the same state when repeated; a value that looks like an option is a value."""
    assert may_repeat(command)


@pytest.mark.parametrize(
    "command",
    [
        ("INCR", "k"), ("APPEND", "k", "v"), ("RPUSH", "k", "v"), ("SETNX", "k", "v"), ("GETDEL", "k"), ("GETSET", "k", "v"),
        ("SET", "k", "v", "NX"), ("SET", "k", "v", "EX", 60, "nx"), ("SET", "k", "v", "GET"), ("SET", "k", "v", "KEEPTTL"),
        (b"SET", b"k", b"v", b"Nx"), ("EXPIRE", "k", 60, "NX"), ("EXPIRE", "k", 60, "GT"), ("MULTI",), ("EXEC",),
        ("EVAL", "x", 0),
        ("AUTH", "u", "p"), ("CLIENT", "TRACKING", "ON"), ("NEVERHEARDOF",), (), ("SET", "k", "v", "SOMETHING", "NEW"),
    ],
)  # fmt: skip
def test_must_not_go_twice(command: tuple[str | bytes | int, ...]) -> None:
    """Counters, lists, conditions, answers that the first run used up, and whatever is not known."""
    assert not may_repeat(command)


@pytest.mark.parametrize("name", ["SELECT", "subscribe", b"MONITOR", "Watch", "BLPOP", "MULTI", "EXEC", "HELLO", "RESET", "QUIT"])
def test_is_refused_alone(name: str | bytes) -> None:
    """What would change or block the shared connection is refused in every spelling."""
    with pytest.raises(ConfigurationError):
        admit((name, "x"))


@pytest.mark.parametrize("words", [("ID",), ("info",), ("KILL", "ID", "7"), ("TRACKINGINFO",)])
def test_client_is_admitted_for_questions(words: tuple[str, ...]) -> None:
    """CLIENT may ask, and end others."""
    admit(("CLIENT", *words))


@pytest.mark.parametrize("words", [(), ("REPLY", "OFF"), ("TRACKING", "OFF"), ("SETNAME", "x"), ("NO-EVICT", "on"), ("PAUSE",)])
def test_client_is_refused_for_changes(words: tuple[str, ...]) -> None:
    """CLIENT may not change the connection of all."""
    with pytest.raises(ConfigurationError):
        admit(("CLIENT", *words))


@pytest.mark.parametrize(
    "names", [["MULTI"], ["EXEC"], ["MULTI", "MULTI", "EXEC", "EXEC"], ["EXEC", "MULTI"], ["MULTI", "GET", "EXEC", "DISCARD"]]
)
def test_a_transaction_is_whole_or_refused(names: list[str]) -> None:
    """A batch must end what it begins."""
    with pytest.raises(ConfigurationError):
        admit_batch([(name, "k") for name in names])
    admit_batch([("MULTI",), ("GET", "k"), ("EXEC",), ("MULTI",), ("DISCARD",), ("GET", "k")])


def test_every_spelling_in_the_table_has_the_rule_of_its_name() -> None:
    """The hot path's table and the slow way agree, and an unknown command goes once."""
    assert all(rule_of((spelling,)) == rule for spelling, rule in RULES.items())
    assert rule_of(("gEt",)) == RULES["GET"]
    assert rule_of(("NEVERHEARDOF",)) == ONCE


def test_a_name_is_safe_to_show() -> None:
    """Control characters and long garbage in a command's place do not reach a message."""
    assert name_of((b"\x1b[31mget\n", "k")) == "\\x1b[31MGET\\n"
    assert len(name_of((b"x" * 10_000,))) == 32
    assert name_of(()) == ""


@pytest.mark.parametrize(
    ("command", "reply", "fits"),
    [
        (("GET", "k"), [b"a"], False), (("GET", "k"), 7, False), (("GET", "k"), {b"a": 1}, False), (("GET", "k"), True, False),
        (("MGET", "a", "b"), [b"1", None], True), (("MGET", "a", "b"), [b"1"], False), (("MGET", "a"), 1, False),
        (("DEL", "k"), 1, True), (("DEL", "k"), [1], False), (("TTL", "k"), -2, True), (("EXEC",), [b"OK"], True),
        (("EXEC",), {}, False), (("HELLO", "3"), {b"proto": 3}, True), (("CLIENT", "ID"), 5, True), (("HGETALL", "k"), {}, True),
    ],
)  # fmt: skip
def test_the_shape_of_a_reply(command: tuple[str, ...], reply: object, fits: bool) -> None:
    """A reply that its command cannot have shows that replies have shifted."""
    assert may_answer(command, reply) == fits
