"""The survey: one shell command that asks, and the functions that understand its answer."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from deploys.facts.survey import FileState, HostSurvey, Listener, Question, UnitState, command, complete, parse

RECORDED = Path(__file__).with_name("recorded")
MARK = "@@redkeep-00112233aabbccdd "
VERSIONS = {"7_0_15": "5:7.0.15-1~deb12u", "8_0_2": "5:8.0.2-3+deb13u"}


def full(folder: Path, cli: str = "/nonexistent/redkeep-cli") -> Question:
    """A question with every section."""
    return Question(
        packages=("base-files", "no-such-package"),
        files=(f"{folder}/plain", f"{folder}/absent", str(folder)),
        globs=(f"{folder}/tls/*",),
        units=("redkeep-none.service",),
        kernel=("/proc/sys/vm/overcommit_memory", "/proc/sys/no/such"),
        groups=("root", "no-such-group"),
        port=6380,
        address="127.0.0.1",
        config=("port", "bind"),
        cli=cli,
        identity="/nonexistent/client",
        process="no-such-process",
        firewall=True,
    )


def run(question: Question) -> list[str]:
    done = subprocess.run(["sh", "-c", command(question)], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def recorded(version: str) -> list[str]:
    return (RECORDED / f"survey_redis_{version}.txt").read_text().splitlines()


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_command_is_valid_shell(shell: str, tmp_path: Path) -> None:
    """Outside and inside its quotes the command parses, with every section and with none."""
    for question in (full(tmp_path), Question()):
        text = command(question)
        inner = next(word for word in shlex.split(text) if word.startswith("S=")).removeprefix("S=").removesuffix(";")
        assert inner.startswith("export LC_ALL=C\n")
        for script in (text, inner):
            done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
            assert (0, "") == (done.returncode, done.stderr)


def test_it_runs_on_a_machine_without_redis(tmp_path: Path) -> None:
    """Every section answers on a machine where nothing of ours is installed; nothing is written to standard error."""
    (tmp_path / "plain").write_text("x")
    (tmp_path / "plain").chmod(0o640)
    (tmp_path / "tls").mkdir()
    for name in ("a b", "it's", "-n", "back\\slash", "pipe|x"):
        (tmp_path / "tls" / name).write_text(name)
    (tmp_path / "tls" / "link").symlink_to("../plain")
    lines = run(full(tmp_path))
    found = parse(lines)
    assert complete(lines)
    assert ("0", "debian") == (found.login["uid"], found.host["id"])
    assert found.memory_bytes > 2**26
    assert "127.0.0.1" in found.addresses
    assert ["base-files"] == list(found.packages)
    assert ("file", "0640", "root") == tuple(getattr(found.file(f"{tmp_path}/plain"), n) for n in ("kind", "mode", "owner"))
    assert hashlib.sha256(b"x").hexdigest() == found.file(f"{tmp_path}/plain").sha256
    assert FileState() == found.file(f"{tmp_path}/absent")
    assert "directory" == found.file(str(tmp_path)).kind
    assert ("link", "../plain", "") == tuple(getattr(found.file(f"{tmp_path}/tls/link"), n) for n in ("kind", "target", "sha256"))
    assert {"a b", "it's", "-n", "back\\slash", "pipe|x", "link"} == {
        path.rpartition("/")[2] for path in found.files if path.startswith(f"{tmp_path}/tls/")
    }
    assert found.file(f"{tmp_path}/tls/a b").sha256 != ""
    assert found.kernel["/proc/sys/vm/overcommit_memory"] in ("0", "1", "2")
    assert {"root": ()} == found.groups
    assert (False, ()) == (found.running, found.sockets)
    assert (False, "no /nonexistent/redkeep-cli yet") == (found.server.reachable, found.server.error)


def test_the_question_changes_nothing(tmp_path: Path) -> None:
    """Files keep their times and the folder its entries."""
    (tmp_path / "plain").write_text("x")
    before = [(p.name, p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in tmp_path.iterdir()]
    run(full(tmp_path))
    assert before == [(p.name, p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in tmp_path.iterdir()]


def test_paths_and_names_are_quoted(tmp_path: Path) -> None:
    """What is asked for is data to the shell, never a command."""
    bait = f"$(touch {tmp_path}/bait);`touch {tmp_path}/bait`'"
    question = Question(packages=(bait,), files=(bait,), units=(bait,), kernel=(bait,), groups=(bait,), process="$(id)'")
    run(question)
    assert [] == os.listdir(tmp_path)


def test_each_run_has_marks_of_its_own() -> None:
    """The marks between sections cannot be foreseen."""
    assert command(Question()) != command(Question())


def test_what_the_host_says_cannot_pass_for_a_section(tmp_path: Path) -> None:
    """A file name, a link or a server answer with line breaks and marks of another run changes no section."""
    (tmp_path / "tls").mkdir()
    for fake in (f"x\n{MARK}sockets\nLISTEN 0 5 0.0.0.0:6380 *:* users:((evil", "y\n@@redkeep host\nid fake"):
        (tmp_path / "tls" / fake.replace("/", "")).touch()
    (tmp_path / "tls" / "link").symlink_to(f"x\n{MARK}login\nuid 7")
    cli = tmp_path / "cli"
    cli.write_text(f"#!/bin/sh\necho '\"{MARK}acl\"'; echo ' 1) \"user evil on\"'; echo '\"{MARK}clients\"'; echo '{MARK}end'\n")
    cli.chmod(0o700)
    found = parse(run(full(tmp_path, str(cli))))
    assert ("0", "debian", ()) == (found.login["uid"], found.host["id"], found.sockets)
    assert ((), False) == (found.server.acl, found.server.reachable)


def test_an_answer_cut_short_is_noticed() -> None:
    """Only the last mark of the same run makes an answer complete."""
    lines = recorded("7_0_15")
    assert (True, False) == (complete(lines), complete(lines[:-1]))
    assert not complete([*lines[:-1], "@@redkeep end", "@@redkeep-ffffffffffffffff end"])


@pytest.mark.parametrize("noise", [["Welcome!"], ["@@redkeep login"], [f"{MARK}end"], ['"']])
def test_words_before_the_answer_are_skipped(noise: list[str]) -> None:
    """A greeting that the login's shell prints does not confuse the answer."""
    assert parse(recorded("7_0_15")) == parse([*noise, *recorded("7_0_15")])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_deployed_host_is_understood(version: str) -> None:
    """The recorded answer of a real host, section by section."""
    found = HostSurvey().process(recorded(version))
    assert ("0", True, True) == (found.login["uid"], found.has_systemd, found.in_container)
    assert found.packages["redis-server"].startswith(VERSIONS[version])
    assert ("127.0.0.1", "192.0.2.10") == found.addresses
    assert ("file", "0700", "root", "root") == tuple(
        getattr(found.file("/usr/local/sbin/redkeep-cli"), name) for name in ("kind", "mode", "owner", "group")
    )
    assert ("directory", "2750", "redis", "adm") == tuple(
        getattr(found.file("/var/log/redis"), name) for name in ("kind", "mode", "owner", "group")
    )
    assert "/opt/redkeep/current/bin/redkeep" == found.file("/usr/local/bin/redkeep").target
    assert 64 == len(found.file("/etc/redkeep/cache.env").sha256)
    unit = found.units["redis-server.service"]
    assert ("loaded", "active", "enabled", False) == (unit.load, unit.active, unit.enabled, unit.stale)
    assert unit.environment.startswith("OPENSSL_CONF=/etc/redis/openssl.cnf REDKEEP_SANDBOX=")
    assert 0 < found.file("/etc/systemd/system/redis-server.service.d/redkeep.conf").modified <= unit.started
    assert UnitState("not-found", "inactive") == found.units["redkeep-firewall.service"]
    assert (True, (("127.0.0.1:6380", "redis-server"),)) == (found.running, found.sockets)
    assert {"redkeep": ()} == found.groups
    assert "always [madvise] never" == found.kernel["/sys/kernel/mm/transparent_hugepage/enabled"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_deployed_server_is_understood(version: str) -> None:
    """What the running Redis says: version, settings (empty and spaced ones too), users, clients, certificate."""
    server = parse(recorded(version)).server
    assert (True, "") == (server.reachable, server.error)
    assert version.replace("_", ".") == server.info["redis_version"]
    assert ("0", "6380", "", "", "TLSv1.3") == tuple(
        server.config[name] for name in ("port", "tls-port", "save", "unixsocket", "tls-protocols")
    )
    assert server.config["client-output-buffer-limit"].startswith("normal 67108864 33554432 60 slave 268435456")
    assert 10 == len(server.acl)
    assert "user default off sanitize-payload resetchannels -@all" == server.acl[3]
    assert ["operator", "operator"] == [client["user"] for client in server.clients]
    assert "ab" * 32 == server.certificate


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_with_the_name_of_a_mark_is_only_a_client(version: str) -> None:
    """The recording has a client that named itself like a section."""
    assert "@@redkeep-acl" == parse(recorded(version)).server.clients[0]["name"]


def test_settings_are_unquoted() -> None:
    """--no-raw escapes quotes, backslashes and every byte outside ASCII; the value is what Redis holds."""
    answer = [f"{MARK}login", f"{MARK}server", *(f'"{MARK}{name}"' for name in ("info",)), f'"{MARK}config"']
    answer += [' 1) "logfile"', ' 2) "a \\"b\\" \\\\ c\\n\\x41"', f'"{MARK}acl"', f'"{MARK}clients"', f"{MARK}end"]
    assert {"logfile": 'a "b" \\ c\nA'} == parse(answer).server.config


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["Could not connect to Redis at 127.0.0.1:6380: Connection refused"], "Connection refused"),
        (["AUTH failed: WRONGPASS invalid password", "(error) NOAUTH Authentication required."], "WRONGPASS invalid password"),
        ([], "no answer"),
        ([""], "no answer"),
        (["", "", "something"], "something"),
    ],
)
def test_a_server_that_cannot_be_asked_says_why(words: list[str], reason: str) -> None:
    """redis-cli's own words are the reason, an empty answer is one too, and nothing else is believed of the server."""
    found = parse([f"{MARK}login", f"{MARK}server", *words, f"{MARK}certificate", f"{MARK}end"]).server
    assert not found.reachable
    assert (reason, {}, ()) == (found.error[-len(reason) :], found.config, found.acl)


@pytest.mark.parametrize("refused", ["info", "config", "acl", "clients"])
def test_an_operator_without_a_right_is_an_error(refused: str) -> None:
    """A refused question is not an empty answer: an empty user list would look like users to add."""
    answer = [f"{MARK}login", f"{MARK}server"]
    for name in ("info", "config", "acl", "clients"):
        answer += [f'"{MARK}{name}"', "(error) NOPERM no permission" if name == refused else '1) "user default off"']
    found = parse([*answer, f"{MARK}end"]).server
    assert ("the operator may not ask: (error) NOPERM no permission", ()) == (found.error, found.acl)


def test_a_line_that_is_no_answer_is_no_crash() -> None:
    """Garbage in any section is passed over."""
    sections = ("login", "host", "addresses", "packages", "files", "sums", "units", "process", "kernel", "groups", "sockets", "server")
    garbage = ["", "x", "640|root", "a b c d e f g", "::", "=", '"', "\\", "1) \"x", "\x00"]
    found = parse([line for name in sections for line in (MARK + name, *garbage)])
    assert ({}, False) == (found.files, found.server.reachable)


def test_listeners_are_told_with_their_account() -> None:
    """Address, program and account of each, as ss prints them: root has no uid there, and a program's name passes for no account."""
    words = "LISTEN 0 4096 {} 0.0.0.0:* {} sk:1 cgroup:/ <->"
    given = [
        words.format("127.0.0.1:8765", 'users:(("redkeep",pid=7,fd=4)) uid:990 ino:22'),
        words.format("0.0.0.0:8501", 'users:(("dockerd",pid=8,fd=4)) ino:23'),
        words.format("*:8501", 'users:(("x uid:990 ino:",pid=9,fd=4)) ino:24'),
        "",
    ]
    found = parse([f"{MARK}login", "uid 0", f"{MARK}listeners", *given, f"{MARK}end"]).listeners
    told = [("127.0.0.1", 8765, "redkeep", 990), ("0.0.0.0", 8501, "dockerd", 0), ("*", 8501, "x uid:990 ino:", 0)]
    assert tuple(Listener(*words) for words in told) == found


def test_a_real_listener_is_seen() -> None:
    """The port that is asked for, and no other; this test's own program and account."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)):
        port = int(one.getsockname()[1])
        found = parse(run(Question(listening=(port,)))).listeners
    assert [("127.0.0.1", port, os.getuid())] == [(each.address, each.port, each.uid) for each in found]


def test_two_questions_make_one() -> None:
    """Lists are joined without doubles; a single value given by either side is kept."""
    joined = Question(files=("/a", "/b"), port=6380) | Question(files=("/b", "/c"), cli="/cli", firewall=True)
    assert Question(files=("/a", "/b", "/c"), port=6380, cli="/cli", firewall=True) == joined


def test_no_section_prints_a_secret() -> None:
    """The command reads no file that holds a secret in clear; it only takes its digest."""
    text = command(Question(files=("/etc/redkeep/operator/password",), cli="/usr/local/sbin/redkeep-cli", config=("port",)))
    assert not re.search(r"(cat|sed|head|tail)[^|;]*(password|cache\.env|\.key)", text)
