"""The posture of a real server: all green when it is hardened, and each way of weakening it turns its own line."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redkeep.cli import main
from redkeep.crypto.passwords import generate_password
from redkeep.monitoring import probes
from redkeep.monitoring.posture import Posture, assess
from redkeep.target import Target, read_target
from tests.redis.server import Files, Server, free_port

pytestmark = pytest.mark.usefixtures("quiet_default_port")


@pytest.fixture
def quiet_default_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may have a Redis of its own on 6379: look at a port where nothing is."""
    monkeypatch.setattr(probes, "DEFAULT_PORT", free_port())


@pytest.fixture
def env_file(server: Server, tmp_path: Path) -> Path:
    """A cache.env as the deploy writes it."""
    path = tmp_path / "cache.env"
    path.write_text("".join(f"{name.upper()}={value}\n" for name, value in server.settings.items()))
    path.chmod(0o640)
    return path


@pytest.fixture
def weak(start: Callable[..., Server]) -> Iterator[Callable[..., Server]]:
    """Start a server and weaken it by the operator's commands."""

    def begin(*commands: tuple[str, ...], **config: str) -> Server:
        started = start(**config)
        with started.log_in() as operator:
            assert ["OK"] * len(commands) == operator.ask(*commands)
        return started

    return begin


def states(target: Target, *, timeout: float = 3.0) -> dict[str, str]:
    """Control -> state, of the server's controls."""
    return {control.name: control.state for control in probes.probe_server(target, timeout=timeout)}


def not_ok(target: Target) -> dict[str, str]:
    return {name: state for name, state in states(target).items() if state != "ok"}


def test_hardened_server_holds(server: Server) -> None:
    """Against the hardened server every control of the network is ok."""
    found = states(server.target())
    assert {"ok"} == set(found.values())
    assert len(found) == 13


def test_probes_leave_no_key(server: Server) -> None:
    """The round trip deletes what it wrote."""
    assess(server.target())
    with server.log_in() as operator:
        assert operator.ask(("KEYS", "ai_cache:redkeep:*")) == [[]]


def test_probes_can_be_told_from_attacks(server: Server) -> None:
    """Each line a run leaves in ACL LOG names `redkeep-probe`, as the user or as the connection."""
    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
        assess(server.target())
        (log,) = operator.ask(("ACL", "LOG", "100"))
    entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in log]  # type: ignore[attr-defined]
    assert len(entries) == 10
    assert all(e[b"username"] == b"redkeep-probe" or b"name=redkeep-probe" in e[b"client-info"] for e in entries)


def test_client_certificates_not_demanded(weak: Callable[..., Server]) -> None:
    """tls-auth-clients optional."""
    server = weak(("CONFIG", "SET", "tls-auth-clients", "optional"))
    assert not_ok(server.target()) == {"mutual TLS": "weak"}


def test_no_client_certificate_configured(weak: Callable[..., Server]) -> None:
    """Client certificates optional by choice, and none on this host: the question does not arise, and is not green."""
    server = weak(("CONFIG", "SET", "tls-auth-clients", "optional"))
    target = server.target(redis_tls_cert_file=None, redis_tls_key_file=None)
    assert not_ok(target) == {"mutual TLS": "not applicable"}


def test_old_tls_accepted(weak: Callable[..., Server]) -> None:
    """tls-protocols with TLS 1.2; with REDIS_TLS_MIN_VERSION=1.2 that was a choice."""
    server = weak(("CONFIG", "SET", "tls-protocols", "TLSv1.2 TLSv1.3"))
    assert not_ok(server.target()) == {"TLS downgrade": "weak"}
    assert not_ok(server.target(redis_tls_min_version="1.2")) == {"TLS downgrade": "not applicable"}


def test_plaintext_port_open(weak: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """A plaintext port beside the TLS port, even with passwords on."""
    port = free_port()
    server = weak(("CONFIG", "SET", "port", str(port)))
    monkeypatch.setattr(probes, "DEFAULT_PORT", port)
    assert not_ok(server.target()) == {"plaintext port": "weak"}


def test_default_user_open_to_all(weak: Callable[..., Server]) -> None:
    """`default` on without a password: everybody is in, and TLS cannot help."""
    server = weak(("ACL", "SETUSER", "default", "on", "nopass", "+@all", "~*"))
    assert not_ok(server.target()) == {"no login without password": "weak", "default user": "weak"}  # pragma: allowlist secret - a control


def test_default_user_shares_the_password(start: Callable[..., Server]) -> None:
    """`requirepass` with the cache's password beside the users: the password opens more than the cache."""
    server = start()
    with server.log_in() as operator:
        operator.ask(("ACL", "SETUSER", "default", "on", f">{server.passwords['cache_service']}", "+@all", "~*"))
    assert not_ok(server.target()) == {"default user": "weak"}


def test_any_user_name_accepted(weak: Callable[..., Server]) -> None:
    """A user that nobody made: a login with a random password must fail."""
    server = weak(("ACL", "SETUSER", "redkeep-probe", "on", "nopass"))
    assert not_ok(server.target()) == {"wrong password": "weak"}  # pragma: allowlist secret - a control


@pytest.mark.parametrize("rule", ["+config|get", "+acl|whoami", "+acl|list", "+keys", "+scan", "+dbsize", "~*", "+@all"])
def test_cache_user_may_too_much(weak: Callable[..., Server], rule: str) -> None:
    """One right too many, and the line says which command came through."""
    server = weak(("ACL", "SETUSER", "cache_service", rule))
    assert not_ok(server.target()) == {"cache user's rights": "weak"}


def test_error_that_is_no_refusal(weak: Callable[..., Server]) -> None:
    """WRONGTYPE instead of NOPERM: the command failed, but the user was let through to another's key."""
    server = weak(("ACL", "SETUSER", "cache_service", "~redkeep:*"))
    with server.log_in() as operator:
        operator.ask(("LPUSH", "redkeep:outside", "x"))
    assert not_ok(server.target()) == {"cache user's rights": "weak"}


def test_renamed_command_is_refused(start: Callable[..., Server]) -> None:
    """`rename-command` is no access control, but a command that is not there is not allowed either."""
    assert not_ok(start(rename_command='CONFIG ""').target()) == {}


def test_cache_user_cannot_write(weak: Callable[..., Server]) -> None:
    """A cache user that cannot store is told by the round trip."""
    server = weak(("ACL", "SETUSER", "cache_service", "-set"))
    assert not_ok(server.target()) == {"sealed round trip": "weak"}


def test_cache_user_is_off(weak: Callable[..., Server]) -> None:
    """A refused login is weak; what needs a login is unknown, and nothing that could not be checked is ok."""
    server = weak(("ACL", "SETUSER", "cache_service", "off"))
    expected = {"login": "weak", "cache user's rights": "unknown", "default user": "unknown", "sealed round trip": "unknown"}
    assert expected == not_ok(server.target())


def test_no_encryption_key(server: Server) -> None:
    """Without a key values would lie readable."""
    assert not_ok(server.target(redis_encryption_key=None)) == {"sealed round trip": "weak"}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), "replica"),
        (("CONFIG", "SET", "maxmemory", "1"), "memory"),
    ],
)
def test_round_trip_that_cannot_run_is_unknown(weak: Callable[..., Server], command: tuple[str, ...], reason: str) -> None:
    """A replica or a full server proves nothing, neither way."""
    controls = {c.name: c for c in probes.probe_server(weak(command).target())}
    assert controls["sealed round trip"].state == "unknown"
    assert reason in controls["sealed round trip"].evidence


@pytest.mark.parametrize(("server_days", "client_days", "state"), [(60, 60, "ok"), (13, 60, "weak"), (60, 13, "weak")])
def test_certificates_about_to_end(
    start: Callable[..., Server], files: Files, server_days: int, client_days: int, state: str
) -> None:
    """Under 14 days for the server's certificate or our own is weak."""
    cert, key = files.pair(f"s{server_days}-{client_days}", ["127.0.0.1"], use="server", days=server_days)
    mine, mine_key = files.pair(f"c{server_days}-{client_days}", [], use="client", days=client_days)
    server = start(tls_cert_file=str(cert), tls_key_file=str(key))
    target = server.target(redis_tls_cert_file=mine, redis_tls_key_file=mine_key)
    assert state == states(target)["certificate expiry"]


def test_server_of_another_authority(server: Server, files: Files) -> None:
    """A certificate that our CA did not sign is weak; nothing else is tried, and the password stays here."""
    with server.log_in() as operator:
        operator.ask(("ACL", "LOG", "RESET"))
        found = states(server.target(redis_tls_ca_file=files.folder / "foreign-ca.crt"))
        assert operator.ask(("ACL", "LOG")) == [[]]
    assert found.pop("server certificate") == "weak"
    assert {"unknown"} == set(found.values())
    assert len(found) == 12


def test_certificate_for_another_name(start: Callable[..., Server], files: Files) -> None:
    """Our CA, but the name of another server."""
    cert, key = files.pair("elsewhere", ["db.example.org"], use="server")
    assert states(start(tls_cert_file=str(cert), tls_key_file=str(key)).target())["server certificate"] == "weak"


@pytest.mark.parametrize("url", ["rediss://127.0.0.1:{free}/0", "rediss://redis.invalid:6380/0"])
def test_unreachable_server_is_unknown(server: Server, url: str) -> None:
    """Where nothing answers nothing is known: 3, not 0 and not 1."""
    target = server.target(redis_url=url.format(free=free_port()))
    assert {"unknown"} == set(states(target).values())
    assert len(states(target)) == 13


def test_connection_lost_in_the_middle(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen before the connection broke stays, the rest is unknown, and no control comes twice."""

    def broken(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(probes, "_rights", broken)
    found = [(control.name, control.state) for control in probes.probe_server(server.target())]
    assert found[:2] == [("login", "ok"), ("TLS version", "ok")]
    assert 13 == len(found) == len(dict(found))
    assert "unknown" == dict(found)["cache user's rights"] == dict(found)["mutual TLS"]


def test_frozen_server_is_unknown(start: Callable[..., Server]) -> None:
    """A server that hangs costs one timeout, not one a control."""
    server = start()
    os.kill(server.process.pid, 19)  # SIGSTOP
    began = time.monotonic()
    found = states(server.target(), timeout=0.3)
    os.kill(server.process.pid, 18)  # SIGCONT
    assert {"unknown"} == set(found.values())
    assert time.monotonic() - began < 3.0, "one timeout a control would be far more"


def test_plaintext_server_in_development(start: Callable[..., Server]) -> None:
    """The development setup works, and the posture does not call it safe."""
    server = start(tls_port="", port=str(free_port()))
    found = states(server.target(environment="development"))
    assert {"TLS version", "plaintext port"} == {name for name, state in found.items() if state == "weak"}
    assert sum(state == "not applicable" for state in found.values()) == 5


def test_server_without_users(start: Callable[..., Server]) -> None:
    """A stock server that asks for nothing: no password, no users."""
    server = start(tls_port="", port=str(free_port()), aclfile="")
    target = server.target(environment="development", redis_cache_password=None)
    expected = {"login", "TLS version", "cache user's rights", "default user", "no login without password", "plaintext port"}
    assert expected <= {name for name, state in states(target).items() if state == "weak"}


def test_loose_file_modes(env_file: Path, server: Server, tmp_path: Path) -> None:
    """An env file or a client key that every user can read, or a CA file that others can write."""
    key, ca = tmp_path / "c.key", tmp_path / "ca.crt"
    key.write_bytes((server.target().key_file or Path()).read_bytes())
    ca.write_bytes((server.target().ca_file or Path()).read_bytes())
    target = read_target(env_file)._replace(key_file=key, ca_file=ca)

    def found() -> list[str]:
        names = ("env file", "client key file", "CA file")
        return [next(c.state for c in assess(target).controls if c.name == name) for name in names]

    key.chmod(0o640)
    ca.chmod(0o644)
    assert found() == ["ok", "ok", "ok"]
    env_file.chmod(0o644)
    key.chmod(0o604)
    ca.chmod(0o664)
    assert found() == ["weak", "weak", "weak"]


def test_process_is_found(server: Server) -> None:
    """The server's process is found by its port, and its user told."""
    controls = {control.name: control for control in assess(server.target()).controls}
    assert str(server.process.pid) in controls["server process"].evidence
    assert ("weak" if os.getuid() == 0 else "ok") == controls["server process"].state


def test_no_secret_is_shown(server: Server, files: Files) -> None:
    """Whatever happens, no password and no key stands in the posture."""
    target = server.target()
    weakened = server.target(redis_cache_password=generate_password())
    foreign = server.target(redis_tls_ca_file=files.folder / "foreign-ca.crt")
    for each in (target, weakened, foreign):
        shown = repr(assess(each)) + repr(each)
        assert not any(secret in shown for secret in (each.password or "?", *each.keys))


def test_command_prints_a_table(env_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`redkeep status` prints a line a control, the sum at the end, and no colour into a pipe."""
    monkeypatch.setattr("redkeep.monitoring.posture.probe_host", lambda target: iter(()))
    assert main(["status", "--env-file", str(env_file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "redkeep: 17 controls hold, 1 not applicable"
    assert len(lines) == 19
    assert ["users' rights"] == [line[6:].split("  ")[0] for line in lines[:-1] if not line.startswith("ok    ")]


def test_command_tells_the_remedy(env_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Something weak: exit code 1, and the next step under the line."""
    env_file.chmod(0o644)
    assert main(["status", "--env-file", str(env_file)]) == 1
    out = capsys.readouterr().out
    assert "WEAK  env file" in out
    assert f"-> chmod 0640 {env_file}" in out


def test_command_cannot_tell(server: Server, env_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing answers: exit code 3."""
    env_file.write_text(env_file.read_text().replace(f":{server.port}", f":{free_port()}"))
    assert main(["status", "--env-file", str(env_file)]) == 3
    assert "connection refused" in capsys.readouterr().out


def test_command_as_json(env_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json is one document with every control, also those that do not apply."""
    code = main(["status", "--json", "--env-file", str(env_file)])
    document = json.loads(capsys.readouterr().out)
    assert {0: "ok", 1: "weak"}[code] == document["state"]
    assert len(document["controls"]) == 23
    assert {"name", "state", "evidence", "remedy", "group"} == set(document["controls"][0])
    fields = ("redis_authenticated", "tls_enabled", "encryption_enabled", "network_isolated")
    assert [True] * 4 == [document[field] for field in fields]


def test_command_on_a_terminal(env_file: Path) -> None:
    """Where a person looks, the controls stand in groups and in colour; nothing of it goes into a pipe."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "redkeep.cli", "status", "--env-file", str(env_file)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    running = subprocess.Popen(command, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error, not an empty read
        while words := os.read(ours, 4_096):
            shown += words
    running.wait(10)
    os.close(ours)
    assert b"\x1b[36mlogin" in shown
    assert re.search(rb"\x1b\[32mok +\x1b\[0m +login", shown)


def test_command_without_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing env file is one sentence."""
    assert main(["status", "--env-file", str(tmp_path / "absent.env")]) == 2
    assert f"redkeep: env file {tmp_path}/absent.env does not exist\n" == capsys.readouterr().err


def test_command_is_light(env_file: Path) -> None:
    """The end of every deploy imports nothing heavy."""
    code = (
        "import sys; from redkeep.cli import main; main(['status', '--env-file', sys.argv[1]]);"
        "print(*sorted({'pydantic', 'redis', 'rich', 'asyncio', 'subprocess'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(env_file)], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


def test_nothing_probed_is_not_safe() -> None:
    """An empty posture is unknown."""
    assert (Posture(()).state, Posture(()).exit_code) == ("unknown", 3)
