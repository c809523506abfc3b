"""The Redis users of Redkeep: who they are, what each may do, and how the running server differs from that.

Everything here is a plain value: nothing connects. The deploy carries `setuser_arguments` to the server and `acl_file` to
the disk; the facts bring `ACL LIST` back through `parse_acl_list`; `acl_differences` says in words what is wrong.

A category is not a boundary (on 7.0.15 `+@write` writes outside the key pattern by GEORADIUS, and later versions add
commands to a category), so every user but the operator has a list of single commands. AUTH, HELLO, RESET and QUIT need no
rule: Redis exempts them from the check (flag `no_auth`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from redkeep.access.categories import CATEGORIES_7_0
from redkeep.errors import ConfigurationError

Engine = Literal["redis", "valkey"]

CACHE_KEY_PREFIX: Final = "ai_cache:"
"""Every key of the cache begins with it."""

_NOTHING: Final = ("resetpass", "resetkeys", "resetchannels", "-@all")

_COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "cache_service": (
        "ping", "get", "set", "mget", "del", "unlink", "exists", "expire", "pexpire", "ttl", "pttl", "type", "strlen",
        "multi", "exec", "discard", "client|id", "client|setname", "getrange", "watch",
    ),
    "cache_janitor": ("ping", "scan", "unlink"),
    "health_service": ("ping", "info"),
    "health_check": ("ping",),
    "monitor": ("ping", "info", "acl|log", "acl|whoami", "acl|dryrun", "acl|users", "client|list"),
    "exporter": (
        "ping", "info", "dbsize", "slowlog|len", "latency|latest", "latency|histogram", "client|setname",
    ),
    "replica": ("ping", "psync", "replconf"),
    "sentinel": (
        "ping", "info", "role", "publish", "subscribe", "multi", "exec", "slaveof", "config|rewrite", "client|setname",
        "client|kill", "script|kill",
    ),
    "backup": ("ping", "info", "lastsave", "bgsave"),
}

_WITH_KEYS: Final = frozenset({"cache_service", "cache_janitor"})
_SPEAK_SETINFO: Final = frozenset({"cache_service", "cache_janitor", "health_service", "monitor"})
"""Users of redis-py, which sends CLIENT SETINFO at each connect; a refusal would fill ACL LOG with false alarms."""

USERS: Final = ("operator", *_COMMANDS, "default")
"""Every user there can be. `default` is last: whoever is logged in as `default` can still make the others first."""

# The words an unset or forgotten variable turns into: a password that is "None" is none.
_NO_PASSWORDS: Final = frozenset(
    hashlib.sha256(word.encode()).hexdigest()
    for word in ("", "None", "none", "null", "undefined", "password", "changeme", "default", "redis", "*MASKED*")
)

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AclUser:
    """One user. `hashes` are bare SHA-256 hex digests, `rules` everything else, in the words of ACL SETUSER."""

    name: str
    enabled: bool
    hashes: tuple[str, ...]
    rules: tuple[str, ...]

    def __repr__(self) -> str:
        return f"AclUser({self.name!r}, enabled={self.enabled}, hashes={len(self.hashes)}, rules={self.rules!r})"


def build_users(
    *,
    engine: Engine,
    version: tuple[int, int],
    hashes: Mapping[str, Sequence[str]],
    names: Iterable[str] = USERS,
    key_prefix: str = CACHE_KEY_PREFIX,
    client_tracking: bool = False,
) -> tuple[AclUser, ...]:
    """The users that `names` asks for, in the order of `USERS`.

    `version` is (major, minor) of the engine itself (Valkey's own number, not the Redis it claims to be). `hashes` maps a
    user to one or, while a password is rotated, two digests; every asked user but `default` needs one, and no two users
    may share one. `default` is always made, and always off.

    `client_tracking` gives the cache user CLIENT TRACKING for a server-invalidated memory tier. It is off by default:
    in broadcast mode the server tells such a client the name of every key that changes, also outside `key_prefix`.

    Raises ConfigurationError for an unknown engine, version or user, and for a missing, malformed or well-known hash.
    """
    if engine not in ("redis", "valkey"):
        raise ConfigurationError(f"engine: {engine!r} is not supported; use 'redis' or 'valkey'")
    if version < ((7, 2) if engine == "valkey" else (7, 0)):
        raise ConfigurationError(f"version: {engine} {version[0]}.{version[1]} is too old; Redis 7.0 or Valkey 7.2 is needed")
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", key_prefix):
        raise ConfigurationError("key_prefix: use only letters, digits and _ . : -, and at least one of them")
    asked = {*names, "default"}
    for name in sorted(asked | set(hashes)):
        if name not in USERS:
            raise ConfigurationError(f"user {_shown(name)}: unknown; the users are {', '.join(USERS)}")
    for name in sorted(set(hashes) - asked):
        raise ConfigurationError(f"user {name}: has a password but is not one of the users to make; add the user, or remove the password")
    _check_hashes({name: tuple(hashes.get(name, ())) for name in asked})

    def rules(name: str) -> tuple[str, ...]:
        if name == "default":
            return _NOTHING
        if name == "operator":
            return ("~*", "&*", "+@all", "-debug", "-module", "-monitor")
        commands = list(_COMMANDS[name])
        if name in _SPEAK_SETINFO and (engine == "valkey" or version >= (7, 2)):
            commands.append("client|setinfo")
        if name == "cache_service" and client_tracking:
            commands.append("client|tracking")
        keys = (f"~{key_prefix}*",) if name in _WITH_KEYS else ()
        channels = ("&__sentinel__:hello",) if name == "sentinel" else ()
        return (*keys, *channels, "-@all", *(f"+{command}" for command in commands))

    return tuple(
        AclUser(name, name != "default", tuple(hashes.get(name, ())), rules(name)) for name in USERS if name in asked
    )


def setuser_arguments(user: AclUser) -> tuple[str, ...]:
    """What follows ACL to make the running user exactly this one: one command, one argument a rule, `reset` first.

    One command replaces passwords and rules in a step, and drops no connection: not even on Redis 7.0, where ACL LOAD
    disconnects everyone. Raises ConfigurationError for a name or a hash that could break out of its argument.
    """
    if not _NAME.fullmatch(user.name):
        raise ConfigurationError(f"user {_shown(user.name)}: a name is 1-64 letters, digits, _ . - and begins with a letter")
    for number, digest in enumerate(user.hashes, 1):
        if not _HASH.fullmatch(digest):
            raise ConfigurationError(f"user {user.name}: hash {number} is not 64 lower-case hex digits of SHA-256")
    for rule in user.rules:
        if not rule or not rule.isprintable() or any(character.isspace() for character in rule):
            raise ConfigurationError(f"user {user.name}: rule {_shown(rule)} holds a space or a control character")
    state = "on" if user.enabled else "off"
    return ("SETUSER", user.name, "reset", state, *(f"#{digest}" for digest in user.hashes), *user.rules)


def acl_file(users: Iterable[AclUser]) -> str:
    """The text of `users.acl`, a line a user, hashes only.

    The one rendered file without a "managed by" header: Redis takes no comment there ("should start with user keyword")
    and does not start. Each line begins with `reset`, so that `default` does not keep its `nopass`.
    """
    return "".join(f"user {' '.join(setuser_arguments(user)[1:])}\n" for user in users)


def parse_acl_list(lines: Iterable[str], *, version: tuple[int, int]) -> dict[str, AclUser]:
    """The users of a running server from the lines of `ACL LIST`, or of an ACL file written by ACL SAVE.

    On 7.0 the categories in a line are replaced by their commands (see categories.py). Raises ConfigurationError for a
    line that is not a user.
    """
    users: dict[str, AclUser] = {}
    for line in lines:
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or words[0] != "user":
            raise ConfigurationError("ACL LIST: a line does not begin with 'user NAME'")
        enabled, hashes, rules = False, list[str](), list[str]()
        for word in _joined_selectors(words[2:]):
            if word in ("on", "off"):
                enabled = word == "on"
            elif word == "reset":
                enabled, hashes, rules = False, [], []
            elif word == "resetpass":
                hashes, rules = [], [rule for rule in rules if rule != "nopass"]
            elif word.startswith("#"):
                hashes.append(word[1:])
            elif version == (7, 0) and word[1:2] == "@" and word[2:] in CATEGORIES_7_0:
                rules += [word[0] + command for command in CATEGORIES_7_0[word[2:]]]
            else:
                rules.append(word)
        users[words[1]] = AclUser(words[1], enabled, tuple(hashes), tuple(rules))
    return users


def acl_differences(wanted: Iterable[AclUser], running: Mapping[str, AclUser]) -> tuple[str, ...]:
    """What the server has that it should not, and what it lacks, a sentence each; empty when all is as wanted.

    Compares meaning, not text: order, `~*` or `allkeys`, and a payload flag that equals the default make no difference.
    Selectors are never wanted. No sentence holds a hash.
    """
    found: list[str] = []
    names: set[str] = set()
    for user in wanted:
        names.add(user.name)
        there = running.get(user.name)
        if there is None:
            found.append(f"user {user.name}: missing")
            continue
        if user.enabled != there.enabled:
            found.append(f"user {user.name}: is {_on(there)}, wanted {_on(user)}")
        if set(user.hashes) != set(there.hashes):
            found.append(f"user {user.name}: password differs")
        found += _rule_differences(user.name, _meaning(user.rules), _meaning(there.rules))
    found += [f"user {_shown(name)}: not wanted" for name in sorted(set(running) - names)]
    return tuple(found)


def _rule_differences(name: str, wanted: frozenset[str], there: frozenset[str], *, limit: int = 8) -> list[str]:
    if "+@all" in there - wanted:  # the single commands on top of it would only hide it
        there = frozenset(rule for rule in there if rule[0] not in "+-" or rule == "+@all")
        wanted = frozenset(rule for rule in wanted if rule[0] not in "+-")
    extra = [f"user {name}: rule {_shown(rule)} is there but not wanted" for rule in sorted(there - wanted)]
    lacks = [f"user {name}: rule {_shown(rule)} is missing" for rule in sorted(wanted - there)]
    both = extra + lacks
    return both if len(both) <= limit else [*both[:limit], f"user {name}: {len(both) - limit} more rules differ"]


def _meaning(rules: Iterable[str]) -> frozenset[str]:
    """The rules in one spelling, without those that change nothing."""
    kept: set[str] = set()
    everything, single = False, dict[str, bool]()

    def clear(*starts: str) -> None:
        kept.difference_update({rule for rule in kept if rule.startswith(starts)})

    for rule in rules:
        rule = {"allkeys": "~*", "allchannels": "&*", "allcommands": "+@all", "nocommands": "-@all"}.get(rule, rule)
        if rule in ("+@all", "-@all"):
            everything, single = rule == "+@all", {}
        elif rule[0] in "+-":
            command = rule[1:].lower()
            single = {other: on for other, on in single.items() if not other.startswith(f"{command}|")}
            single[command] = rule[0] == "+"
        elif rule == "resetkeys":
            clear("~", "%")
        elif rule == "resetchannels":
            clear("&")
        elif rule == "resetpass":
            clear("nopass")
        elif rule == "clearselectors":
            clear("(")
        elif rule == "sanitize-payload":
            clear("skip-sanitize-payload")
        elif rule == "~*":
            clear("~", "%")
            kept.add(rule)
        elif rule.startswith("%RW~"):
            kept.add(rule[3:])
        else:
            kept.add(rule)
    for command, on in single.items():
        parent = single.get(command.partition("|")[0], everything) if "|" in command else everything
        if on != parent or command.startswith("@"):  # what a category changes depends on the order: always a difference
            kept.add(f"{'+' if on else '-'}{command}")
    return frozenset({*kept, "+@all"} if everything else kept)


def _check_hashes(hashes: Mapping[str, tuple[str, ...]]) -> None:
    owners: dict[str, str] = {}
    for name, digests in sorted(hashes.items()):
        if name == "default" and digests:
            raise ConfigurationError("user default: it is off and has no password; remove its hash")
        if name != "default" and not digests:
            raise ConfigurationError(f"user {name}: no password hash; create the secrets first")
        for digest in digests:
            if not isinstance(digest, str) or not _HASH.fullmatch(digest):
                raise ConfigurationError(f"user {name}: a hash is not 64 lower-case hex digits of SHA-256")
            if digest in _NO_PASSWORDS:
                raise ConfigurationError(f"user {name}: the password is empty or a well-known word; use a random one")
            if owners.setdefault(digest, name) != name:
                raise ConfigurationError(f"user {name}: shares its password with {owners[digest]}; give each its own")


def _joined_selectors(words: Sequence[str]) -> list[str]:
    """The words with each `( ... )` selector as one."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("(") and not joined[-1].endswith(")"):
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def _on(user: AclUser) -> str:
    return "on" if user.enabled else "off"


def _shown(text: str) -> str:
    """A name from the server as it may stand in a terminal or a log line."""
    return text if text.isprintable() else ascii(text)
