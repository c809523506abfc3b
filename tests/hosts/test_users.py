"""The users, and what each may do: every command the server knows, tried by ACL DRYRUN for every user."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest

from .machine import OPERATOR, Machine

OWN_KEY = "ai_cache:op:summarize|h:0"
FOREIGN_KEY = "tenant2:secret"
SENTINELS_CHANNEL = "__sentinel__:hello"

# What each may do, command by command; `operator` is told by what it may not do.
MAY = {
    "default": "",
    "cache_service": (
        "ping get set mget del unlink exists expire pexpire ttl pttl type strlen multi exec discard client|id client|setname"
        " getrange watch"
    ),
    "cache_janitor": "ping scan unlink",
    "health_service": "ping info",
    "health_check": "ping",
    "monitor": "ping info acl|log acl|whoami acl|dryrun acl|users client|list",
    "exporter": "ping info dbsize slowlog|len latency|latest latency|histogram client|setname",
    "replica": "ping psync replconf",
    "sentinel": ("ping info role publish subscribe multi exec slaveof config|rewrite client|setname client|kill script|kill"),
    "backup": "ping info lastsave bgsave",
}
# Users of redis-py, which sends CLIENT SETINFO where there is one (from 7.2).
SPEAK_SETINFO = {"cache_service", "cache_janitor", "health_service", "monitor"}
OPERATOR_MAY_NOT = re.compile(r"debug|monitor|module(\|.*)?")
USERS = ("operator", *MAY)
# Redis asks no permission for these: one must be able to log in and to leave.
ALWAYS = {"auth", "hello", "quit", "reset"}
# Their first argument is a channel, which has permissions of its own.
CHANNEL_COMMANDS = {"publish", "spublish", "subscribe", "ssubscribe", "psubscribe"}


class Command(NamedTuple):
    """A command as COMMAND describes it: arity is negative for "at least"."""

    name: str
    arity: int
    key_specs: list[dict[str, Any]]

    def words(self, key: str, channel: str) -> list[str]:
        """The shortest call that is well formed: keys where keys go, a channel, and numbers elsewhere."""
        name = self.name.split("|")
        words = [*name, *["1"] * (abs(self.arity) - len(name))]
        if self.name in CHANNEL_COMMANDS:
            words[1:] = [channel, *words[2:]]
        for spec in self.key_specs:
            self._place(words, spec, key)
        return words

    @staticmethod
    def _place(words: list[str], spec: dict[str, Any], key: str) -> None:
        begin, find = spec["begin_search"], spec["find_keys"]
        if begin["type"] != "index":
            return  # behind an optional word: OPTIONAL_KEYS below
        first = begin["spec"]["index"]
        if find["type"] == "keynum":
            words += ["1"] * (first + find["spec"]["firstkey"] + 1 - len(words))
            words[first + find["spec"]["keynumidx"]] = "1"
            words[first + find["spec"]["firstkey"]] = key
            return
        words += [key] * (first + 1 - len(words))
        words[first] = key
        last, step = find["spec"]["lastkey"], find["spec"]["keystep"]
        if last > 0:
            words += [key] * (first + last + 1 - len(words))
        end = first + last if last >= 0 else len(words) + last
        for place in range(first, end + 1, max(step, 1)):
            words[place] = key

    @property
    def has_key(self) -> bool:
        return any(spec["begin_search"]["type"] == "index" for spec in self.key_specs)


@cache
def commands(machine: Machine) -> tuple[Command, ...]:
    """Everything the server can be asked to do: commands, and in place of a container its subcommands."""

    def flat(entries: list[list[Any]]) -> Iterator[Command]:
        for entry in entries:
            if entry[9]:
                yield from flat(entry[9])
            if not entry[9] or "|" not in entry[0]:
                yield Command(entry[0].lower(), entry[1], entry[8])

    return tuple(flat(machine.redis_json("COMMAND")))


@cache
def _containers(machine: Machine) -> frozenset[str]:
    return frozenset(c.name.partition("|")[0] for c in commands(machine) if "|" in c.name)


@cache
def matrix(machine: Machine, key: str, channel: str) -> dict[tuple[str, str], str]:
    """(user, command) -> ok, command, key or channel: what the permission is refused for. One redis-cli for all."""
    asked = [c for c in commands(machine) if c.name not in _containers(machine)]
    text = "".join(" ".join(_quoted(word) for word in c.words(key, channel)) + "\n" for c in asked)
    script = f"""calls={shlex.quote(text)}
for user in {" ".join(USERS)}; do printf %s "$calls" | sed "s/^/ACL DRYRUN $user /"; done | {machine.cli()} | grep ."""
    replies = machine.lines(script)
    pairs = [(user, c.name) for user in USERS for c in asked]
    assert len(replies) == len(pairs), "one reply a question"
    return {pair: _verdict(reply) for pair, reply in zip(pairs, replies, strict=True)}


def _quoted(word: str) -> str:
    return f'"{word}"'


def _verdict(reply: str) -> str:
    if reply == "OK":
        return "ok"
    refused = re.search(r"has no permissions to (?:run|access) the '.*' (command|key|channel)$", reply)
    return refused[1] if refused else reply


def may(machine: Machine, user: str, command: str) -> bool:
    """Whether the table says so."""
    if command in ALWAYS:
        return True
    if user == "operator":
        return not OPERATOR_MAY_NOT.fullmatch(command)
    speaks = user in SPEAK_SETINFO and command == "client|setinfo"
    tracks = user == "cache_service" and command == "client|tracking" and machine.wanted["cache_tracking"]
    return speaks or tracks or command in MAY[user].split()


def test_the_whole_of_the_servers_commands_is_tried(redis_host: Machine) -> None:
    """The matrix leaves out no command of COMMAND LIST; only containers, which cannot be called, go by their parts."""
    listed = {name.lower() for name in redis_host.redis("COMMAND LIST")}
    assert len(listed) > 300
    assert listed == {c.name for c in commands(redis_host)}


@pytest.mark.parametrize("user", USERS)
def test_user_may_do_what_the_table_says_and_nothing_else(redis_host: Machine, user: str) -> None:
    """Of every command the user may call exactly those of the table, on the cache's keys and Sentinel's channel."""
    verdicts = {c: v for (u, c), v in matrix(redis_host, OWN_KEY, SENTINELS_CHANNEL).items() if u == user}
    assert {c: v for c, v in verdicts.items() if (v == "ok") != may(redis_host, user, c)} == {}
    assert {v for v in verdicts.values() if v != "ok"} <= {"command"}, "each refusal is of the command itself"
    assert set(MAY.get(user, "").split()) <= verdicts.keys(), "the table names commands that the server has"


@pytest.mark.parametrize("user", [user for user in USERS if user != "operator"])
def test_keys_of_others_are_refused(redis_host: Machine, user: str) -> None:
    """Whatever a user may call is refused on a key outside ai_cache:* - for the key, not for the command."""
    keyed = [c.name for c in commands(redis_host) if c.has_key and may(redis_host, user, c.name)]
    verdicts = matrix(redis_host, FOREIGN_KEY, SENTINELS_CHANNEL)
    assert {c: verdicts[user, c] for c in keyed} == dict.fromkeys(keyed, "key")


def test_operator_reaches_every_key_and_channel(redis_host: Machine) -> None:
    """Nothing is refused to the operator for a key or channel: the refusals of the others are the users', not the server's."""
    verdicts = matrix(redis_host, FOREIGN_KEY, "other")
    assert {c for (u, c), v in verdicts.items() if u == "operator" and v not in ("ok", "command")} == set()


# Calls with keys behind optional words or in places that a description does not tell: (user, call, refused for).
OPTIONAL_KEYS = [
    ("cache_service", f"GET {OWN_KEY}x", "ok"),
    ("cache_service", "GET ai_cache", "key"),
    ("cache_service", "GET AI_CACHE:x", "key"),
    ("cache_service", f"MGET {OWN_KEY} {FOREIGN_KEY}", "key"),
    ("cache_service", f"DEL {OWN_KEY} {FOREIGN_KEY}", "key"),
    ("cache_service", f"UNLINK {OWN_KEY} {FOREIGN_KEY}", "key"),
    ("cache_service", f"EXISTS {OWN_KEY} {FOREIGN_KEY}", "key"),
    ("cache_service", f"SET {OWN_KEY} v GET EX 5", "ok"),
    ("cache_service", f"GEORADIUS {OWN_KEY} 0 0 1 m STORE {OWN_KEY} STORE {FOREIGN_KEY}", "command"),
    ("cache_service", f"SORT {OWN_KEY} BY other* GET other* STORE {FOREIGN_KEY}", "command"),
    ("cache_service", f"MIGRATE 192.0.2.1 6379 {OWN_KEY} 0 1", "command"),
    ("cache_service", f"SETRANGE {OWN_KEY} 104857600 x", "command"),
    ("cache_service", f"BLPOP {OWN_KEY} 0", "command"),
    ("cache_service", f"COPY {OWN_KEY} {OWN_KEY} DB 1", "command"),
    ("cache_service", "EVAL 'return 1' 0", "command"),
    ("cache_service", "SELECT 0", "command"),
    ("cache_service", "CLIENT LIST", "command"),
    ("cache_service", "CLIENT TRACKING on BCAST", "command"),
    ("cache_service", "KEYS ai_cache:*", "command"),
    ("cache_service", "RANDOMKEY", "command"),
    ("cache_janitor", f"UNLINK {FOREIGN_KEY}", "key"),
    ("cache_janitor", f"GET {OWN_KEY}", "command"),
    ("cache_janitor", f"SORT {OWN_KEY} STORE {OWN_KEY}", "command"),
    ("monitor", "ACL LIST", "command"),
    ("monitor", "ACL GETUSER operator", "command"),
    ("monitor", "CLIENT KILL TYPE normal", "command"),
    ("monitor", "CONFIG GET *", "command"),
    ("exporter", "SLOWLOG GET", "command"),
    ("exporter", "CONFIG GET maxmemory", "command"),
    ("sentinel", f"PUBLISH {SENTINELS_CHANNEL} x", "ok"),
    ("sentinel", "PUBLISH other x", "channel"),
    ("sentinel", "SUBSCRIBE other", "channel"),
    ("sentinel", f"SUBSCRIBE {SENTINELS_CHANNEL} other", "channel"),
    ("sentinel", "CONFIG SET dir /tmp", "command"),
    ("replica", "SYNC", "command"),
    ("backup", "SAVE", "command"),
    ("operator", "DEBUG SLEEP 0", "command"),
    ("operator", "MODULE LIST", "command"),
    ("operator", "MODULE LOAD /tmp/x.so", "command"),
    ("operator", "MONITOR", "command"),
    ("default", "PING", "command"),
    ("default", f"GET {OWN_KEY}", "command"),
]


def test_known_ways_around_are_closed(redis_host: Machine) -> None:
    """Each call that has broken somebody's rules before is refused, and for the right reason."""
    replies = redis_host.redis(*(f"ACL DRYRUN {user} {call}" for user, call, _ in OPTIONAL_KEYS))
    found = [(user, call, _verdict(reply)) for (user, call, _), reply in zip(OPTIONAL_KEYS, replies, strict=True)]
    tracks = {("cache_service", "CLIENT TRACKING on BCAST", "ok")} if redis_host.wanted["cache_tracking"] else set()
    assert set(found) - set(OPTIONAL_KEYS) == tracks


def _users(lines: list[str]) -> dict[str, list[str]]:
    return {words[1]: words[2:] for words in (line.split() for line in lines) if words[:1] == ["user"]}


def _running(machine: Machine) -> dict[str, list[str]]:
    return _users(machine.redis("ACL LIST"))


def _on_disk(machine: Machine) -> dict[str, list[str]]:
    return _users(machine.read(f"{machine.folder}/users.acl").splitlines())


def _state(words: list[str]) -> dict[str, set[str]]:
    """What a line says apart from commands; how a server prints those differs between versions, and the matrix proves them."""
    return {
        "state": {w for w in words if w in ("on", "off", "nopass")},
        "passwords": {w[:9] for w in words if w[0] in "#>"},
        "keys": {w for w in words if w[0] in "~%" or w == "allkeys"},
        "channels": {w for w in words if w[0] == "&" or w == "allchannels"},
    }


def test_only_the_known_users_exist(redis_host: Machine) -> None:
    """The running server has exactly the users of the table."""
    assert set(_running(redis_host)) == set(USERS)


def test_default_user_is_off(redis_host: Machine) -> None:
    """`default` is off, without a password, a key, a channel or a command."""
    assert set(_running(redis_host)["default"]) <= {"off", "sanitize-payload", "resetchannels", "-@all"}


def test_every_other_user_is_on_with_a_password(redis_host: Machine) -> None:
    """Every user but `default` is on and has a password; none gets in without one."""
    for user, words in _running(redis_host).items():
        if user != "default":
            assert _state(words)["state"] == {"on"}, user
            assert _state(words)["passwords"], user


def test_passwords_are_sha256_and_no_two_the_same(redis_host: Machine) -> None:
    """On disk and in memory passwords are SHA-256 hashes, and no two users share one."""
    for users in (_running(redis_host), _on_disk(redis_host)):
        secrets = [w for words in users.values() for w in words if w[0] in "#>"]
        assert all(re.fullmatch(r"#[0-9a-f]{64}", secret) for secret in secrets)
        assert len(set(secrets)) == len(secrets)


def test_file_and_running_server_agree_on_the_users(redis_host: Machine) -> None:
    """users.acl and ACL LIST name the same users with the same state, passwords, keys and channels."""
    on_disk = {user: _state(words) for user, words in _on_disk(redis_host).items()}
    assert on_disk == {user: _state(words) for user, words in _running(redis_host).items()}


def test_file_gives_the_commands_of_the_table(redis_host: Machine) -> None:
    """users.acl gives each user the commands of the table, all others taken first: a restart brings back the same rights."""
    has_setinfo = "client|setinfo" in {c.name for c in commands(redis_host)}
    for user, words in _on_disk(redis_host).items():
        if user == "operator":
            assert [w for w in words if w[0] in "+-"] == ["+@all", "-debug", "-module", "-monitor"]
            continue
        wanted = {f"+{name}" for name in MAY[user].split()}
        wanted |= {"+client|setinfo"} if has_setinfo and user in SPEAK_SETINFO else set()
        wanted |= {"+client|tracking"} if redis_host.wanted["cache_tracking"] and user == "cache_service" else set()
        rules = [w for w in words if w[0] in "+-"]
        assert rules[0] == "-@all", user
        assert set(rules[1:]) == wanted, user


def test_operators_password_is_the_one_in_the_root_only_file(redis_host: Machine) -> None:
    """The file's password is the operator's, in a line of its own and long enough to resist guessing for ever."""
    digest, length, lines = redis_host.out(
        f'cd {OPERATOR}; printf %s "$(cat password)" | sha256sum | cut -c1-64; wc -c < password; wc -l < password'
    ).split()
    assert f"#{digest}" in _running(redis_host)["operator"]
    assert int(length) >= 32
    assert int(lines) <= 1


def test_login_is_demanded_and_wrong_passwords_are_refused(redis_host: Machine) -> None:
    """With a certificate but no password, an empty or a wrong one, nothing is allowed; a hash is no password."""
    hashed = next(w for w in _on_disk(redis_host)["operator"] if w[0] == "#")[1:]
    attempts = [
        "PING", "INFO", "CONFIG GET *", "ACL LIST",
        "AUTH wrong-password", 'AUTH ""', "AUTH default wrong-password", 'AUTH default ""',
        "AUTH operator wrong-password", 'AUTH operator ""', f"AUTH operator {hashed}", "AUTH nobody wrong-password",
        "HELLO 3 AUTH default wrong-password", "PING",
    ]  # fmt: skip
    text = shlex.quote("".join(f"{attempt}\n" for attempt in attempts))
    replies = redis_host.lines(f"printf %s {text} | {redis_host.cli(operator=False)} 2>&1 | grep .")
    assert [reply.split()[0] for reply in replies] == ["NOAUTH"] * 4 + ["WRONGPASS"] * 9 + ["NOAUTH"]
