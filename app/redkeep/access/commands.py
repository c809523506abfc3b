"""What the multiplexed transport must know of a command: may it go at all, and may it go twice.

Commands of all callers share one connection. One that changes the connection for the others (SELECT, SUBSCRIBE, a lone MULTI) or
blocks it is refused. After a lost connection, one whose reply was not seen goes again only if it may have run already without
harm: reads, and writes that leave the same state when repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast

import hiredis

from redkeep.access.client import Argument, Command
from redkeep.errors import ConfigurationError

pack: Final = cast("Callable[[Command], bytes]", hiredis.pack_command)
"""A command as it goes over the wire. Raises TypeError for an argument of another kind, ValueError for lone surrogates."""

ONCE: Final = 0
REPEATABLE: Final = 1
BY_OPTIONS: Final = 2
"""Repeatable when no option asks for more than a plain write; see `_HARMLESS`."""
TRANSACTION: Final = -1
"""MULTI, EXEC, DISCARD, ASKING: only inside one `execute_many`, where nothing comes between."""
SUBCOMMAND: Final = -2
FORBIDDEN: Final = -3

_READS: Final = (
    "GET MGET EXISTS TTL PTTL EXPIRETIME PEXPIRETIME TYPE STRLEN GETRANGE PING ECHO TIME DBSIZE INFO SCAN HGET HMGET HGETALL "
    "HLEN HEXISTS SMEMBERS SISMEMBER SCARD LRANGE LLEN ZRANGE ZSCORE ZCARD MEMORY OBJECT"
)
_WRITES: Final = "DEL UNLINK PERSIST SETEX PSETEX MSET"
_BY_OPTIONS: Final = "SET EXPIRE PEXPIRE EXPIREAT PEXPIREAT"
_HARMLESS: Final = frozenset({"EX", "PX", "EXAT", "PXAT", "XX"})
_FORBIDDEN: Final = (
    "SELECT AUTH HELLO RESET QUIT SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR WATCH UNWATCH "
    "SYNC PSYNC REPLCONF BLPOP BRPOP BLMOVE BRPOPLPUSH BLMPOP BZPOPMIN BZPOPMAX BZMPOP WAIT WAITAOF READONLY READWRITE "
    "XREAD XREADGROUP"
)
_CLIENT: Final = frozenset({"ID", "INFO", "LIST", "GETNAME", "TRACKINGINFO", "KILL"})
_ONLY_LIST: Final = frozenset({"MGET", "EXEC"})
_SCALARS: Final = (
    "GET SET DEL UNLINK EXISTS EXPIRE PEXPIRE EXPIREAT PEXPIREAT TTL PTTL TYPE STRLEN PERSIST PING SETEX PSETEX MULTI DISCARD"
)
_NO_LIST: Final = frozenset(_SCALARS.split(" "))


def _spellings(table: Iterable[tuple[str, int]]) -> dict[Argument, int]:
    return {
        spelling: rule
        for names, rule in table
        for name in names.split()
        for spelling in (name, name.lower(), name.encode(), name.lower().encode())
    }


RULES: Final[dict[Argument, int]] = _spellings(
    (
        (_READS, REPEATABLE), (_WRITES, REPEATABLE), (_BY_OPTIONS, BY_OPTIONS), ("MULTI EXEC DISCARD ASKING", TRANSACTION),
        ("CLIENT", SUBCOMMAND), (_FORBIDDEN, FORBIDDEN),
    )
)  # fmt: skip
"""By the first argument as callers write it; the hot path asks this. Other spellings go through `rule_of`."""


def name_of(command: Sequence[Argument]) -> str:
    """The command's name in capitals, safe to show; "" for an empty command."""
    first = command[0] if command else ""
    text = first.decode("ascii", "replace") if isinstance(first, bytes) else str(first)
    return ascii(text[:32].upper())[1:-1]


def rule_of(command: Sequence[Argument]) -> int:
    """The rule of a command in any spelling; an unknown one may go, once."""
    return RULES.get(name_of(command), ONCE)


def admit(command: Sequence[Argument], *, in_transaction: bool = False) -> None:
    """Raises ConfigurationError for a command that must not go on a shared connection."""
    rule = rule_of(command)
    if rule >= 0 or (rule == TRANSACTION and in_transaction):
        return
    if rule == SUBCOMMAND and len(command) > 1 and name_of(command[1:]) in _CLIENT:
        return
    hint = "put it and the commands that belong to it into one execute_many" if rule == TRANSACTION else "use a redis-py connection for it"
    raise ConfigurationError(f"{name_of(command)} would change the connection that all callers share; {hint}")


def admit_batch(commands: Sequence[Command]) -> None:
    """Raises ConfigurationError for a batch with a forbidden command, or with a MULTI or ASKING that nothing follows."""
    depth, name = 0, ""
    for command in commands:
        admit(command, in_transaction=True)
        name = name_of(command)
        depth += (name == "MULTI") - (name in ("EXEC", "DISCARD"))
        if depth not in (0, 1):
            raise ConfigurationError(f"{name} is unpaired in its batch; begin with MULTI and end with EXEC")
    if name == "ASKING":
        raise ConfigurationError("ASKING applies to the next command, but its batch ends with it")
    if depth:
        raise ConfigurationError("MULTI is unpaired in its batch; end the batch with EXEC")


def may_repeat(command: Sequence[Argument]) -> bool:
    """Tell whether running the command twice leaves what running it once leaves, and gives the caller a true reply."""
    rule = rule_of(command)
    if rule != BY_OPTIONS:
        return rule == REPEATABLE
    options = [name_of((word,)) for word in command[3:]]
    return all(option in _HARMLESS or option.lstrip("-").isdigit() for option in options)


def may_answer(command: Sequence[Argument], reply: object) -> bool:
    """Tell whether the reply has a shape this command can have; what does not fit means that replies have shifted."""
    name = name_of(command)
    if isinstance(reply, list):
        if name == "MGET":
            return len(reply) == len(command) - 1
        return name not in _NO_LIST
    if isinstance(reply, int) and not isinstance(reply, bool):
        return name not in ("GET", "SET", "TYPE", "MGET", "MULTI", "PING")
    return name not in _NO_LIST and name not in _ONLY_LIST
