"""What a migration wants of a host at each level, and what stops it: values, judged without a host."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploys.bundle import build
from deploys.facts.survey import FileState, ServerState
from deploys.migration import apps, closing, course, legacy, passage, preparation, ways
from deploys.migration.passage import Passage
from deploys.migration.window import BACKUP, BEFORE, VERIFIED, Window, include_text, original_file
from deploys.stages.wanted import CLI
from redkeep.migration.journal import Holder, Position
from redkeep.migration.stages import LEVELS, NAMES, STAGES
from tests.unit.wanted import FakeSite, bundle, data, survey, there

ENGINE = bundle().engine
DEFAULT_ON = "user default on nopass sanitize-payload ~* &* +@all"


def at(level: int, *, verb: Any = "migrate", **knobs: Any) -> Passage:
    """A passage to a level, on a host whose server is documented."""
    window = Window(before={"port": "6379", "tls-port": "0"}, acl=(DEFAULT_ON,), original="0" * 64, extended="1" * 64)
    return Passage(FakeSite(bundle(**knobs)), verb, STAGES[max(level, 0)], level, window)  # type: ignore[arg-type]


def client(number: int, *, port: int, user: str, name: str = "") -> dict[str, str]:
    """A line of CLIENT LIST."""
    return {
        "id": str(number),
        "addr": f"10.0.0.7:{4000 + number}",
        "laddr": f"10.0.0.5:{port}",
        "user": user,
        "name": name,
        "age": "65",
    }


def with_clients(*clients: dict[str, str]) -> Any:
    return survey(server=ServerState(error="", clients=clients))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("plain#1", "plain#1"),
        ('"in double quotes"  ', "in double quotes"),
        ("'in single quotes'", "in single quotes"),
        (r"""'it\'s "one" \n'""", """it's "one" \\n"""),
        (r'''"a\"b\\c\x41\xe4\x2F\tz\q'"''', "a\"b\\cA\udce4/\tzq'"),
        ("un\\x41quoted\\", "un\\x41quoted\\"),
        ("half'way in'", "halfway in"),
        ('""', ""),
        ("''", ""),
        ("$(id) `id` %s & *\r", "$(id)\n`id`\n%s\n&\n*"),
    ],
)
@pytest.mark.parametrize("way", ["access", "command"])
def test_the_password_of_before_is_read_as_the_server_reads_it(written: str, meant: str, way: str, tmp_path: Path) -> None:
    """Quotes, escapes and none of them, the last line of several: what redis-server takes for the password is sent to it."""
    conf = tmp_path / "redis.conf"
    lines = f"  requirepass first\n# requirepass none\nbind '127.0.0.1' \"::1\"\nRequirePass\t {written}\nport \"6400\"\n"
    conf.write_text(lines, newline="")
    if way == "access":
        script = legacy.access(ENGINE).replace(f"conf={ENGINE.config}", f"conf={conf}") + "\n" + 'printf %s "${REDISCLI_AUTH-}"'
    else:
        text = next(d for d in ways.command(at(0, verb="rollback"), survey(files={CLI: there()}))).stdin
        script = base64.b64decode(str(text)).decode().replace(original_file(ENGINE), str(conf))
        script = re.sub("^exec .*", 'printf %s "${REDISCLI_AUTH-}"', script, flags=re.MULTILINE)
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode("utf-8", "surrogateescape") == meant


@pytest.mark.parametrize(
    ("level", "has", "lacks"),
    [
        ("authentication", {"REDIS_URL": "redis://127.0.0.1:6379/0"}, {"REDIS_TLS_CA_FILE", "REDIS_ENCRYPTION_KEYS"}),
        ("tls", {"REDIS_URL": "rediss://127.0.0.1:6380/0"}, {"REDIS_ENCRYPTION_KEYS", "REDIS_READ_LEGACY"}),
        ("application_encryption", {"REDIS_ENCRYPTION_KEYS": "first,second", "REDIS_READ_LEGACY": "true"}, set()),
        ("access_control", {"REDIS_ENCRYPTION_KEYS": "first,second", "REDIS_READ_LEGACY": "true"}, set()),
        ("close", {"REDIS_ENCRYPTION_KEYS": "first,second"}, {"REDIS_READ_LEGACY"}),
    ],
)  # fmt: skip
def test_the_app_follows_the_level(level: str, has: dict[str, str], lacks: set[str]) -> None:
    """Password, then TLS, then the key with the reading of old entries, which ends with the last stage."""
    found = list(apps.environment(at(LEVELS[level]), survey()))
    text = next(base64.b64decode(str(d.stdin)).decode() for d in found if "cache.env" in d.what)
    values = dict(line.split("=", 1) for line in text.splitlines() if line[0] != "#")
    assert {name: values.get(name) for name in has} == has
    assert not lacks & set(values)


def test_no_password_crosses_a_network() -> None:
    """Before there is TLS, an app on another host is given nothing."""
    hosts = build(
        [("r1", frozenset({"redis"}), data(redis_address="10.0.0.5")), ("a1", frozenset({"app"}), data(app_address="10.0.0.7"))]
    )
    elsewhere = at(LEVELS["authentication"])
    elsewhere.site.bundle = hosts["a1"]
    assert list(apps.environment(elsewhere, survey())) == []


def test_who_speaks_plaintext_is_named() -> None:
    """The refusal lists address, name, user, port and age; the survey's own session is not in anybody's way."""
    found = with_clients(
        client(1, port=6379, user="default", name="worker"),
        client(2, port=6380, user="cache_service"),
        client(3, port=6379, user="operator", name="redkeep-survey"),
    )
    said = apps.all_by_tls(at(LEVELS["close"]), found)
    assert "1 client still uses plaintext: 10.0.0.7:4001 'worker' (user default, port 6379, connected for 65 s)" in said
    assert "Move them to port 6380 with TLS" in said
    assert "10.0.0.7 is no host of the inventory: add it to the group app, or to allowed_clients" in said
    known = apps.all_by_tls(at(LEVELS["close"], redis_address="10.0.0.5", allowed_clients=["10.0.0.0/24"]), found)
    assert "still uses plaintext" in known
    assert "inventory" not in known
    assert apps.all_by_tls(replace(at(LEVELS["close"]), stragglers=True), found) == ""


def test_who_would_be_shut_out_is_named() -> None:
    """The last stage listens where the bundle says and admits whom it names: a client from elsewhere, or at another address of the
    host, is told before, not cut off."""
    by_tls = [
        client(1, port=6380, user="cache_service") | {"addr": "127.0.0.1:4001", "laddr": "127.0.0.1:6380"},
        client(2, port=6380, user="cache_service"),
        client(3, port=6380, user="cache_service") | {"addr": "10.0.0.5:4003"},
        client(4, port=6380, user="operator", name="redkeep-survey"),
    ]
    assert apps.all_are_admitted(at(LEVELS["close"]), with_clients(by_tls[0], by_tls[3])) == ""
    said = apps.all_are_admitted(at(LEVELS["close"]), with_clients(*by_tls))
    assert said.startswith("2 clients would be shut out: 10.0.0.5:4003")
    assert "10.0.0.7:4002" in said
    assert "call Redis at 127.0.0.1 or ::1" in said
    wide = at(LEVELS["close"], redis_address="10.0.0.5", allowed_clients=["10.0.0.0/24"])
    assert apps.all_are_admitted(wide, with_clients(*by_tls)) == ""
    everywhere = at(LEVELS["close"], redis_bind=["0.0.0.0"], allowed_clients=["10.0.0.7"])  # noqa: S104 - what is tested
    assert apps.all_are_admitted(everywhere, with_clients(*by_tls)) == ""
    stranger = client(6, port=6380, user="cache_service") | {"addr": "10.0.0.9:4006"}
    said = apps.all_are_admitted(everywhere, with_clients(*by_tls, stranger))
    assert said.startswith("1 client would be shut out: 10.0.0.9:4006")
    plain = with_clients(client(5, port=6379, user="default"))
    assert "still uses plaintext" in apps.all_are_admitted(at(LEVELS["close"]), plain)
    assert apps.all_are_admitted(replace(at(LEVELS["close"]), stragglers=True), with_clients(*by_tls)) == ""


@pytest.mark.parametrize(
    ("bind", "knobs", "told"),
    [
        ("0.0.0.0", {}, True),
        ("127.0.0.1 10.0.0.5 -::1", {}, True),
        ("* -::*", {}, True),
        ("", {}, True),
        ("127.0.0.1 -::1", {}, False),
        ("0.0.0.0", {"redis_address": "10.0.0.5", "allowed_clients": ["10.0.0.7"]}, False),
        ("0.0.0.0", {"redis_address": "10.0.0.5", "allowed_clients": ["10.0.0.7"], "firewall": False}, True),
    ],
)  # fmt: skip
def test_a_door_without_an_allow_list_is_named(bind: str, knobs: dict[str, Any], told: bool) -> None:
    """The TLS port opens where the old server listens; whom nothing but its certificate keeps out is said before."""
    going = at(LEVELS["tls"], **knobs)
    going.window = replace(going.window, before={"port": "6379", "tls-port": "0", "bind": bind})
    said = ways.open_door(going)
    assert bool(said) is told
    if told:
        assert f"port 6380 opens on {bind or 'every address'}, where the server listens now, without an allow-list" in said


def test_who_is_still_default_is_named() -> None:
    """Users of ours are ready, however they are connected."""
    found = with_clients(client(1, port=6379, user="default"), client(2, port=6379, user="cache_service"))
    assert "1 client still logs in as a previous user: 10.0.0.7:4001" in apps.all_have_users(at(LEVELS["access_control"]), found)
    assert apps.all_have_users(at(LEVELS["access_control"]), with_clients(client(2, port=6380, user="monitor"))) == ""


def test_the_way_back_waits_for_clients_too() -> None:
    """Nobody loses a user or a port that it is connected by; the operator's own sessions do not count."""
    back = at(0, verb="rollback")
    found = with_clients(client(1, port=6380, user="cache_service"), client(2, port=6380, user="operator"))
    assert "1 client would lose their user: 10.0.0.7:4001" in apps.none_has_users(back, found)
    assert "1 client would lose the TLS port: 10.0.0.7:4001" in apps.none_by_tls(back, found)
    assert apps.none_by_tls(back, with_clients(client(2, port=6380, user="operator"))) == ""


def test_every_stage_has_its_course_both_ways() -> None:
    """No stage lacks its steps or its proof."""
    assert tuple(course.SERVER_FORWARD) == NAMES
    assert set(course.SERVER_BACK) == set(NAMES)
    assert sorted(course.PROOFS) == sorted(LEVELS.values())


@pytest.mark.parametrize(("level", "way"), [(-1, "default"), (0, "default"), (1, "operator"), (2, "tls"), (4, "tls"), (5, "tls")])
def test_the_operators_way(level: int, way: str) -> None:
    """By plaintext as whoever enters, then as the operator, then over TLS."""
    assert ways.way_of(level) == way


def test_the_included_file_follows_the_level() -> None:
    """Users from the first level on, `default` among them only once it is off, TLS from its level on; no password in clear."""
    texts = {name: ways.include(at(LEVELS[name]), survey()).decode() for name in ("authentication", "tls", "access_control")}
    assert "user operator reset on #" in texts["authentication"]
    assert not re.search("^(user default|tls-port)", texts["authentication"], re.MULTILINE)
    assert "tls-port 6380" in texts["tls"].splitlines()
    assert "user default reset off resetpass resetkeys resetchannels -@all" in texts["access_control"].splitlines()
    assert not any("word-of-" in text for text in texts.values())


@pytest.mark.parametrize("level", ["authentication", "tls"])
def test_a_server_that_listens_everywhere_leaves_room_for_the_trial(level: str) -> None:
    """The throwaway server that tries the included file has ports of its own, for a wildcard takes the real ones everywhere."""
    script = next(d.script for d in ways.persisted(at(LEVELS[level]), survey()) if "redkeep-migration.conf is missing" in d.what)
    assert "--port $(( 20000" in script
    assert ("--tls-port $(( 30000" in script) is (level == "tls")
    assert '--unixsocket ""' in script


def test_an_app_host_is_prepared_and_cleared() -> None:
    """A host with nothing but the app gets the folder for our notes first, and it goes with everything else."""
    hosts = build(
        [("r1", frozenset({"redis"}), data(redis_address="10.0.0.5")), ("a1", frozenset({"app"}), data(app_address="10.0.0.7"))]
    )
    going, coming = at(0), at(-1, verb="rollback")
    going.site.bundle = coming.site.bundle = hosts["a1"]
    assert "/var/lib/redkeep is missing" in next(iter(preparation.packages(going, survey()))).what
    left = survey(files={"/var/lib/redkeep": FileState("directory")})
    assert [d.what for d in preparation.packages(coming, left)] == ["folder /var/lib/redkeep still exists"]


def test_a_new_preparation_takes_a_new_backup() -> None:
    """The backup stays on the way back, but proves nothing the next time."""
    back = list(preparation.document(at(-1, verb="rollback"), survey(files={BEFORE: FileState("directory")})))
    assert VERIFIED in back[0].script.split()
    assert BACKUP not in back[0].script.split()


def test_a_server_without_persistence_keeps_none() -> None:
    """The snapshot of the backup goes again where there was none before: the next start would bring back what had changed since.
    What a run that died has left of its comparison goes first."""
    (backup,) = preparation.backup(at(0), survey())
    dump, noted = f"{ENGINE.data_folder}/dump.rdb", "/without-dump"
    wanted = ("/.redkeep-restore.*", f"|| [ -e {dump} ] || touch ", "BGSAVE", f"cat {dump} ", f"rm -f {dump}")
    places = [backup.script.index(words) for words in wanted]
    assert places == sorted(places)
    assert backup.script.index(f"{noted}\nsleep") < backup.script.index(f"{noted} ]; then rm -f {dump}; rm -f ")


def test_default_comes_back_as_it_was() -> None:
    """On the way back the user of before gets its own rules again, with hashes, in one command."""
    off = "user default off sanitize-payload resetchannels -@all"
    found = survey(server=ServerState(error="", acl=(off,)), packages={"redis-server": "5:7.0.15-1"})
    commands = [str(d.stdin) for d in ways.live_users(at(LEVELS["application_encryption"], verb="rollback"), found)]
    assert 'ACL SETUSER "default" reset "on" "nopass" "sanitize-payload" "~*" "&*" "+@all"\n' in commands


def test_the_configuration_comes_back_byte_for_byte() -> None:
    """Before there are users the file must be the one of before; with users it is that file and one include."""
    changed = survey(files={ENGINE.config: FileState("file", "0640", "redis", "redis", "1" * 64)})
    found = [difference.what for difference in ways.persisted(at(0, verb="rollback"), changed)]
    assert found == [f"file {ENGINE.config} differs from before the migration"]
    assert include_text(ENGINE).count("include ") == 1


def test_nothing_restarts_on_the_way_back() -> None:
    """No script of the way back from the last stage starts or stops the server."""
    everything = survey(
        files=dict.fromkeys(
            [ENGINE.drop_in, ENGINE.acl_file, "/var/lib/redkeep/managed", "/etc/sysctl.d/90-redkeep.conf"], there()
        ),
        server=ServerState(error="", config={"port": "0"}),
    )
    back = at(LEVELS["access_control"], verb="rollback")
    back.site.answer = (True, ["port", "0"], [])  # type: ignore[attr-defined]
    scripts = [d.script for wish in (closing.files_before, closing.live_before) for d in wish(back, everything)]
    assert len(scripts) >= 4
    assert not any(re.search(r"systemctl (re)?start|SHUTDOWN", script) for script in scripts)


def test_the_way_back_is_announced_as_what_it_does() -> None:
    """Not with the words of the way forward."""
    assert at(4).purpose.startswith("Turn off the default user")
    assert at(4, verb="rollback").purpose == at(4).stage.rollback


def test_the_way_back_by_hand_keeps_the_data() -> None:
    """After close, without persistence, a stop writes nothing: the data are saved before it."""
    (difference,) = preparation.plan(at(0), survey())
    text = base64.b64decode(str(difference.stdin)).decode()
    assert 0 < text.index("SAVE") < text.index("systemctl stop")


def test_a_second_run_is_told_who_holds_the_lock() -> None:
    """The holder is named; a dead process on this machine, and one silent for a minute elsewhere, hold nothing."""
    here = passage.machine()
    other = Holder("ann@laptop", "0123abcd", "another machine", 1, "migrate", "tls")
    held = replace(at(2), window=Window(holder=other, silent=3.0))
    assert "ann@laptop is running this migration (migrate tls" in held.others_hold()
    assert replace(held, window=Window(holder=other, silent=61.0)).others_hold() == ""
    assert replace(held, window=Window(holder=replace(other, machine=here, process=os.getpid()))).others_hold() != ""
    assert replace(held, window=Window(holder=replace(other, machine=here, process=2**22 + 1))).others_hold() == ""


def test_a_second_run_does_not_go_by_what_it_saw_before_the_first_one() -> None:
    """Another run's entry since the look makes what was judged by it void; this run's own entries do not."""
    looked = Window(runs=("0123abcd",))
    going = replace(at(2), window=replace(looked, runs=("0123abcd", passage.run_name())))
    assert not going.others_worked(looked)
    going.window = replace(looked, runs=("0123abcd", passage.run_name(), "4567cdef"))
    assert going.others_worked(looked)


def test_a_changed_configuration_stops_the_next_stage() -> None:
    """What somebody wrote into redis.conf meanwhile is not overwritten by the way back: the next stage stops before."""
    changed = FileState("file", "0640", "redis", "redis", "f" * 64)
    going = at(LEVELS["tls"])
    going.window = replace(going.window, position=Position(done=NAMES[:2]))
    going.site.seen = survey(files={ENGINE.config: changed})  # type: ignore[attr-defined]
    assert "was changed since the migration began" in course.may_begin(going)
    going.site.seen = survey(files={ENGINE.config: replace(changed, sha256="1" * 64)})  # type: ignore[attr-defined]
    assert course.may_begin(going) == ""
