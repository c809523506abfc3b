"""Who may run what, written down independently of the rules: the table that tests hold against `ACL DRYRUN`.

`ACL DRYRUN user command ...` answers as the server would, and runs nothing (Redis 7.0, Valkey 7.2 and later).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from redkeep.access.acl import USERS


class Case(NamedTuple):
    """One cell: may `user` run `line` on the server?"""

    user: str
    line: tuple[str, ...]
    allowed: bool


_CACHE, _JANITOR, _EXPORTER = "cache_service", "cache_janitor", "exporter"
_EVERYBODY: Final = tuple(name for name in USERS if name != "default")

# Command line -> the users who may run it, besides the operator.
_ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "PING": _EVERYBODY,
    "INFO": ("health_service", "monitor", "exporter", "sentinel", "backup"),
    "INFO all": ("health_service", "monitor", "exporter", "sentinel", "backup"),
    # the cache's own keys
    "GET ai_cache:k": (_CACHE,),
    "SET ai_cache:k v": (_CACHE,),
    "SET ai_cache:k v EX 60 NX": (_CACHE,),
    "SET ai_cache:k v GET": (_CACHE,),
    "MGET ai_cache:a ai_cache:b": (_CACHE,),
    "DEL ai_cache:k": (_CACHE,),
    "UNLINK ai_cache:k": (_CACHE, _JANITOR),
    "EXISTS ai_cache:k": (_CACHE,),
    "EXPIRE ai_cache:k 60": (_CACHE,),
    "PEXPIRE ai_cache:k 60": (_CACHE,),
    "TTL ai_cache:k": (_CACHE,),
    "PTTL ai_cache:k": (_CACHE,),
    "TYPE ai_cache:k": (_CACHE,),
    "STRLEN ai_cache:k": (_CACHE,),
    "GETRANGE ai_cache:k 0 30": (_CACHE,),
    "WATCH ai_cache:k": (_CACHE,),
    "MULTI": (_CACHE, "sentinel"),
    "EXEC": (_CACHE, "sentinel"),
    "DISCARD": (_CACHE,),
    "SCAN 0": (_JANITOR,),
    "SCAN 0 MATCH ai_cache:* COUNT 500": (_JANITOR,),
    # keys of others, by name, by half a name, by prefix of the prefix
    "GET other:k": (),
    "GET ai_cache": (),
    "GET xai_cache:k": (),
    "GET AI_CACHE:k": (),
    "SET other:k v": (),
    "MGET ai_cache:a other:b": (),
    "DEL ai_cache:a other:b": (),
    "UNLINK other:k": (),
    "UNLINK ai_cache:a other:b": (),
    "EXPIRE other:k 60": (),
    "TYPE other:k": (),
    "STRLEN other:k": (),
    "GETRANGE other:k 0 30": (),
    "WATCH other:k": (),
    # names and counts of others
    "KEYS *": (),
    "KEYS ai_cache:*": (),
    "RANDOMKEY": (),
    "DBSIZE": (_EXPORTER,),
    # ways around the key pattern, ways to fill or to block the server
    "GEORADIUS ai_cache:g 0 0 1 km STORE ai_cache:x STORE other:y": (),
    "COPY ai_cache:k other:k": (),
    "RENAME ai_cache:k other:k": (),
    "MOVE ai_cache:k 1": (),
    "SELECT 1": (),
    "SWAPDB 0 1": (),
    "SETRANGE ai_cache:k 104857600 x": (),
    "APPEND ai_cache:k v": (),
    "SORT ai_cache:k": (),
    "BLPOP ai_cache:k 0": (),
    "WAIT 1 0": (),
    "DUMP ai_cache:k": (),
    "RESTORE ai_cache:k 0 x": (),
    "MIGRATE 192.0.2.1 6379 ai_cache:k 0 1000": (),
    "OBJECT FREQ ai_cache:k": (),
    "FLUSHALL": (),
    "FLUSHDB": (),
    # code
    "EVAL return 0": (),
    "SCRIPT LOAD x": (),
    "SCRIPT FLUSH": (),
    "SCRIPT KILL": ("sentinel",),
    "FUNCTION LOAD x": (),
    "FUNCTION FLUSH": (),
    "FCALL f 0": (),
    # the server itself
    "CONFIG GET *": (),
    "CONFIG SET dir /tmp": (),
    "CONFIG REWRITE": ("sentinel",),
    "CONFIG RESETSTAT": (),
    "ACL LIST": (),
    "ACL WHOAMI": ("monitor",),
    "ACL LOG": ("monitor",),
    "ACL USERS": ("monitor",),
    "ACL CAT": (),
    "ACL DRYRUN default PING": ("monitor",),
    "ACL GETUSER default": (),
    "ACL SETUSER eve on nopass": (),
    "ACL DELUSER monitor": (),
    "ACL SAVE": (),
    "ACL LOAD": (),
    "SHUTDOWN": (),
    "SAVE": (),
    "BGSAVE": ("backup",),
    "LASTSAVE": ("backup",),
    "BGREWRITEAOF": (),
    "SLOWLOG GET": (),
    "SLOWLOG LEN": (_EXPORTER,),
    "SLOWLOG RESET": (),
    "LATENCY LATEST": (_EXPORTER,),
    "LATENCY HISTOGRAM": (_EXPORTER,),
    "LATENCY RESET": (),
    "MEMORY USAGE ai_cache:k": (),
    "MEMORY DOCTOR": (),
    "COMMAND": (),
    # other clients
    "CLIENT ID": (_CACHE,),
    "CLIENT SETNAME x": (_CACHE, _EXPORTER, "sentinel"),
    "CLIENT GETNAME": (),
    "CLIENT LIST": ("monitor",),
    "CLIENT KILL 192.0.2.1:1": ("sentinel",),
    "CLIENT PAUSE 1000": (),
    "CLIENT NO-EVICT on": (),
    "CLIENT TRACKING on": (),
    "PUBLISH __sentinel__:hello x": ("sentinel",),
    "PUBLISH other x": (),
    "SUBSCRIBE __sentinel__:hello": ("sentinel",),
    "SUBSCRIBE other": (),
    "PSUBSCRIBE *": (),
    # replication
    "PSYNC ? -1": ("replica",),
    "REPLCONF listening-port 1": ("replica",),
    "SYNC": (),
    "REPLICAOF NO ONE": (),
    "SLAVEOF NO ONE": ("sentinel",),
    "FAILOVER": (),
    "ROLE": ("sentinel",),
    "CLUSTER INFO": (),
}

# What the operator may not: a debugger, native code, and every other client's traffic.
_NOBODY: Final = ("DEBUG SLEEP 0", "MODULE LIST", "MODULE LOAD /tmp/x.so", "MONITOR")


def command_matrix() -> tuple[Case, ...]:
    """Every user against every command line; about 1,000 cells, for `build_users` with its defaults."""
    cells = [Case(user, tuple(line.split()), user == "operator" or user in allowed)
             for line, allowed in _ALLOWED.items() for user in _EVERYBODY]
    cells += [Case(user, tuple(line.split()), False) for line in _NOBODY for user in _EVERYBODY]
    cells += [Case("default", tuple(line.split()), False) for line in (*_ALLOWED, *_NOBODY)]
    return tuple(cells)
