"""The users of Redis as values: rules by version, the file, the one command, and what counts as a difference."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redkeep.access.acl import (
    USERS,
    AclUser,
    acl_differences,
    acl_file,
    build_users,
    parse_acl_list,
    setuser_arguments,
)
from redkeep.access.matrix import command_matrix
from redkeep.errors import ConfigurationError

RECORDED = Path(__file__).parent / "recorded"
HASHES = {name: (hashlib.sha256(name.encode()).hexdigest(),) for name in USERS if name != "default"}
SERVERS = [
    ("redis", (7, 0), "acl_list_redis_7_0_15.txt"),
    ("redis", (8, 0), "acl_list_redis_8_0_2.txt"),
    ("valkey", (8, 1), "acl_list_valkey_8_1_1.txt"),
]


def users(engine: str = "redis", version: tuple[int, int] = (7, 0), **more: object) -> dict[str, AclUser]:
    made = build_users(**{"engine": engine, "version": version, "hashes": HASHES, **more})  # type: ignore[arg-type]
    return {user.name: user for user in made}


@pytest.mark.parametrize(("engine", "version", "file"), SERVERS)
def test_recorded_list_equals_what_was_set(engine: str, version: tuple[int, int], file: str) -> None:
    """What each server printed after our SETUSER commands is no difference (recorded from the servers themselves)."""
    running = parse_acl_list((RECORDED / file).read_text().splitlines(), version=version)
    assert acl_differences(users(engine, version).values(), running) == ()


@pytest.mark.parametrize(("engine", "version", "file"), SERVERS)
@pytest.mark.parametrize("lost", ["+ping", "&*", "~*", "#", " on"])
def test_every_recorded_user_matters(engine: str, version: tuple[int, int], file: str, lost: str) -> None:
    """A user whose line loses a rule, its password or its state is a difference."""
    for line in (RECORDED / file).read_text().splitlines():
        if lost in line:
            changed = line.replace(lost, " off" if lost == " on" else "", 1)
            running = parse_acl_list([changed], version=version)
            wanted = [users(engine, version)[name] for name in running if name in HASHES]
            assert wanted == [] or acl_differences(wanted, running) != (), changed


def test_setinfo_only_where_the_server_knows_it() -> None:
    """`+client|setinfo` stops 7.0 from starting; 7.2, 8.0 and Valkey get it, for the users of redis-py alone."""
    having = {"cache_service", "cache_janitor", "health_service", "monitor"}
    assert set() == {u.name for u in users().values() if "+client|setinfo" in u.rules}
    for engine, version in (("redis", (7, 2)), ("redis", (8, 0)), ("valkey", (7, 2)), ("valkey", (8, 1))):
        assert having == {u.name for u in users(engine, version).values() if "+client|setinfo" in u.rules}


def test_tracking_only_on_demand() -> None:
    """CLIENT TRACKING, which can show other tenants' key names, is granted only when asked for."""
    assert "+client|tracking" not in users()["cache_service"].rules
    assert "+client|tracking" in users(client_tracking=True)["cache_service"].rules


def test_only_the_operator_has_a_category() -> None:
    """Every user but the operator has single commands on top of nothing."""
    for name, user in users("redis", (8, 0)).items():
        categories = {rule for rule in user.rules if "@" in rule[:2]}
        assert ({"+@all"} if name == "operator" else {"-@all"}) == categories


def test_default_is_off_and_last() -> None:
    """`default` is off, without password or rights, and comes last, so that its own session can make the others."""
    last = build_users(engine="redis", version=(7, 0), hashes=HASHES)[-1]
    assert AclUser("default", False, (), ("resetpass", "resetkeys", "resetchannels", "-@all")) == last


def test_fewer_users_on_demand() -> None:
    """A single server needs no replica and no sentinel; `default` is made in any case."""
    made = build_users(engine="redis", version=(7, 0), hashes={"backup": HASHES["backup"]}, names=["backup"])
    assert [user.name for user in made] == ["backup", "default"]


def test_whole_user_in_one_command() -> None:
    """SETUSER begins with reset, sends hashes only, and one argument a rule."""
    digest = HASHES["backup"][0]
    expected = ("SETUSER", "backup", "reset", "on", f"#{digest}", "-@all", "+ping", "+info", "+lastsave", "+bgsave")
    assert expected == setuser_arguments(users()["backup"])


def test_file_holds_hashes_and_no_comment() -> None:
    """users.acl is a line a user and nothing else: Redis does not start from a file with a comment."""
    lines = acl_file(users().values()).splitlines()
    assert len(USERS) == len(lines)
    assert all(line.startswith("user ") and ">" not in line for line in lines)


def test_file_reads_back_as_itself() -> None:
    """What we write is what we read."""
    for version in ((7, 0), (8, 0)):
        wanted = users("redis", version)
        assert acl_differences(wanted.values(), parse_acl_list(acl_file(wanted.values()).splitlines(), version=version)) == ()


def test_two_hashes_while_a_password_is_rotated() -> None:
    """Both digests are set, in either order they are the same user, and one alone is a difference."""
    both = {**HASHES, "monitor": (HASHES["monitor"][0], "ab" * 32)}
    wanted = users(hashes=both)["monitor"]
    assert sum(word.startswith("#") for word in setuser_arguments(wanted)) == 2
    swapped = AclUser("monitor", True, wanted.hashes[::-1], wanted.rules)
    assert acl_differences([wanted], {"monitor": swapped}) == ()
    assert acl_differences([wanted], {"monitor": users()["monitor"]}) == ("user monitor: password differs",)


@pytest.mark.parametrize(
    ("hashes", "named"),
    [
        ({**HASHES, "monitor": ()}, "monitor"),
        ({k: v for k, v in HASHES.items() if k != "backup"}, "backup"),
        ({**HASHES, "backup": ("None",)}, "backup"),
        ({**HASHES, "backup": (None,)}, "backup"),
        ({**HASHES, "backup": (hashlib.sha256(b"None").hexdigest(),)}, "backup"),
        ({**HASHES, "backup": (hashlib.sha256(b"").hexdigest(),)}, "backup"),
        ({**HASHES, "backup": (HASHES["backup"][0].upper(),)}, "backup"),
        ({**HASHES, "backup": HASHES["monitor"]}, "share"),
        ({**HASHES, "default": ("ab" * 32,)}, "default"),
        ({**HASHES, "eve": ("ab" * 32,)}, "eve"),
    ],
)
def test_refused_hashes(hashes: dict[str, tuple[str, ...]], named: str) -> None:
    """No hash, a password "None", a malformed or shared hash: refused, by user name, without the value."""
    with pytest.raises(ConfigurationError, match=named) as caught:
        users(hashes=hashes)
    assert not any(digest in str(caught.value) for digests in hashes.values() for digest in digests if digest)


@pytest.mark.parametrize(("engine", "version"), [("redis", (6, 2)), ("valkey", (7, 0)), ("keydb", (7, 0))])
def test_refused_engines(engine: str, version: tuple[int, int]) -> None:
    """Servers we have not measured are refused."""
    with pytest.raises(ConfigurationError):
        users(engine, version)


@pytest.mark.parametrize("name", ["", "a b", "a\nuser eve on nopass +@all", "-x", "ä", "a" * 65, "x>y"])
def test_names_cannot_break_out(name: str) -> None:
    """A user name that is more than one word never reaches a file or a server."""
    with pytest.raises(ConfigurationError):
        acl_file([AclUser(name, True, ("ab" * 32,), ("-@all",))])


@pytest.mark.parametrize("rule", ["", "+get +@all", "~a\nuser", "~\x00"])
def test_rules_cannot_break_out(rule: str) -> None:
    """One rule is one word."""
    with pytest.raises(ConfigurationError):
        setuser_arguments(AclUser("x", True, ("ab" * 32,), (rule,)))


DIGEST = "ab" * 32
MONITOR = f"user monitor on sanitize-payload #{DIGEST} resetchannels -@all +ping +info"


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        (MONITOR, ()),
        (MONITOR.replace("sanitize-payload ", ""), ()),
        (MONITOR.replace("+ping +info", "+info +ping"), ()),
        (f"{MONITOR} +flushall -flushall", ()),
        (f"{MONITOR} +FLUSHALL", ("user monitor: rule +flushall is there but not wanted",)),
        (MONITOR.replace(" +info", ""), ("user monitor: rule +info is missing",)),
        (MONITOR.replace(" on ", " off "), ("user monitor: is off, wanted on",)),
        (MONITOR.replace(DIGEST, "cd" * 32), ("user monitor: password differs",)),
        (MONITOR.replace(f"#{DIGEST}", "nopass"),
         ("user monitor: password differs", "user monitor: rule nopass is there but not wanted")),
        (MONITOR.replace("-@all", "+@all"), ("user monitor: rule +@all is there but not wanted",)),
        (MONITOR.replace("resetchannels", "&*"), ("user monitor: rule &* is there but not wanted",)),
        (MONITOR.replace("resetchannels", "~*"), ("user monitor: rule ~* is there but not wanted",)),
        (MONITOR.replace("resetchannels", "allkeys"), ("user monitor: rule ~* is there but not wanted",)),
        (MONITOR.replace("resetchannels", "%RW~x"), ("user monitor: rule ~x is there but not wanted",)),
        (MONITOR.replace("resetchannels", "%R~x"), ("user monitor: rule %R~x is there but not wanted",)),
        (MONITOR.replace("sanitize", "skip-sanitize"),
         ("user monitor: rule skip-sanitize-payload is there but not wanted",)),
        (f"{MONITOR} (~x* resetchannels -@all +get)",
         ("user monitor: rule (~x* resetchannels -@all +get) is there but not wanted",)),
        (f"{MONITOR} +@read", ("user monitor: rule +@read is there but not wanted",)),
        (f"{MONITOR} -@read", ("user monitor: rule -@read is there but not wanted",)),
        (f"{MONITOR} +client -client|kill",
         ("user monitor: rule +client is there but not wanted", "user monitor: rule -client|kill is there but not wanted")),
        (f"{MONITOR}\nuser eve on nopass +@all", ("user eve: not wanted",)),
        (f"{MONITOR}\nuser e\x1b[2Jve on", ("user 'e\\x1b[2Jve': not wanted",)),
        ("", ("user monitor: missing",)),
    ],
)
def test_differences_in_words(line: str, sentences: tuple[str, ...]) -> None:
    """Each way a running user can differ is one sentence; the ways a server spells the same thing are none."""
    wanted = [AclUser("monitor", True, (DIGEST,), ("-@all", "+ping", "+info"))]
    assert sentences == acl_differences(wanted, parse_acl_list(line.splitlines(), version=(8, 0)))


def test_7_0_categories_are_opened() -> None:
    """7.0 prints +multi +exec +discard as a category; that is the same, and one command more is told by name."""
    wanted = [AclUser("x", True, (), ("-@all", "+multi", "+exec", "+discard"))]
    same = parse_acl_list(["user x on -@all +@transaction -watch -unwatch"], version=(7, 0))
    more = parse_acl_list(["user x on -@all +@transaction -watch"], version=(7, 0))
    assert acl_differences(wanted, same) == ()
    assert acl_differences(wanted, more) == ("user x: rule +unwatch is there but not wanted",)


def test_many_differences_stay_readable() -> None:
    """A user with a whole category too many gives eight sentences and a count."""
    wanted = [AclUser("x", True, (), ("-@all",))]
    found = acl_differences(wanted, parse_acl_list(["user x on -@all +@write"], version=(7, 0)))
    assert len(found) == 9
    assert found[-1] == "user x: 100 more rules differ"


def test_no_sentence_and_no_repr_holds_a_hash() -> None:
    """Hashes of passwords are not shown, neither wanted nor running."""
    wanted, running = users(), parse_acl_list([f"user {name} on #{DIGEST}" for name in USERS], version=(7, 0))
    shown = " ".join(acl_differences(wanted.values(), running)) + repr(wanted) + repr(running)
    assert not any(digest in shown for digest in (DIGEST, *(h[0] for h in HASHES.values())))


@given(st.permutations(list(users("redis", (8, 0))["cache_service"].rules)[2:]))
def test_order_of_commands_is_no_difference(commands: list[str]) -> None:
    """However a server orders the commands of a user, it is the same user."""
    wanted = users("redis", (8, 0))["cache_service"]
    running = AclUser(wanted.name, True, wanted.hashes, ("-@all", *commands, "~ai_cache:*"))
    assert acl_differences([wanted], {"cache_service": running}) == ()


@pytest.mark.parametrize("line", ["use x on", "user", "# managed"])
def test_foreign_lines_are_refused(line: str) -> None:
    """A line that is no user is an error, not skipped."""
    with pytest.raises(ConfigurationError):
        parse_acl_list([line], version=(7, 0))


def test_matrix_covers_every_user_and_line_once() -> None:
    """Each of the users meets each command line exactly once, and everybody but `default` may at least PING."""
    cells = command_matrix()
    assert len(cells) == len({(case.user, case.line) for case in cells})
    assert set(USERS) == {case.user for case in cells}
    assert set(USERS) - {"default"} == {case.user for case in cells if case.line == ("PING",) and case.allowed}
