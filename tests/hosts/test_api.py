"""The API on app hosts: who may ask it, where it listens, and how little its process may do."""

from __future__ import annotations

import json
import re

import pytest

from .machine import API, API_USER, Machine, Stat

pytestmark = pytest.mark.only(api=True)
UNIT = "redkeep-api.service"
as_unit, as_container = pytest.mark.only(api_runtime="unit"), pytest.mark.only(api_runtime="container")

# Asks as a person on the host would, with the key where it belongs; prints the status and the body.
ASK = """python3 - <<'END'
import ssl, urllib.error, urllib.request
headers = {HEADERS}
request = urllib.request.Request("SCHEME://127.0.0.1:PORT/PATH", headers=headers)
try:
    answer = urllib.request.urlopen(request, timeout=20, context=CONTEXT)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode())
END"""
KEY = f'"X-API-Key": open("{API}/key").read().strip()'


def ask(machine: Machine, path: str, headers: str = KEY) -> tuple[int, str]:
    contained = machine.api == "container"
    context = f'ssl.create_default_context(cafile="{API}/ca.crt")' if contained else "None"
    script = ASK.replace("PORT", str(machine.wanted["api_port"])).replace("PATH", path).replace("HEADERS", headers)
    script = script.replace("SCHEME", "https" if contained else "http").replace("CONTEXT", context)
    status, body = machine.out(script).split("\n", 1)
    return int(status), body


def container(machine: Machine, service: str = "api") -> str:
    ids = machine.lines(f"docker ps --quiet --filter label=com.docker.compose.service={service}")
    assert len(ids) == 1
    return ids[0]


def pid(machine: Machine) -> str:
    if machine.api == "container":
        return machine.out(f"docker inspect --format '{{{{.State.Pid}}}}' {container(machine)}").strip()
    return machine.out(f"systemctl show -p MainPID --value {UNIT}").strip()


@as_unit
def test_unit_is_enabled_and_active(app_host: Machine) -> None:
    """It runs, will run after a restart of the host, and nothing on disk is newer than what systemd has read."""
    shown = app_host.lines(f"systemctl show -p UnitFileState,ActiveState,NeedDaemonReload {UNIT} | sort")
    assert shown == ["ActiveState=active", "NeedDaemonReload=no", "UnitFileState=enabled"]


def test_it_listens_on_loopback_alone(app_host: Machine) -> None:
    """One socket, on 127.0.0.1, and the process has no other."""
    if app_host.api == "container":
        taken = [f"127.0.0.1:{app_host.wanted[f'{name}_port']}" for name in ("api", *(["dashboard"] if app_host.dashboard else []))]
        ports = " or ".join(f"sport = :{address.rpartition(':')[2]}" for address in taken)
        assert sorted(app_host.lines(f"ss -Hltn '{ports}' | awk '{{print $4}}'")) == sorted(taken)
        return
    sockets = app_host.lines(f"ss -Hltnp | grep 'pid={pid(app_host)},' | awk '{{print $4}}'")
    assert sockets == [f"127.0.0.1:{app_host.wanted['api_port']}"]


def test_nobody_is_answered_without_the_key(app_host: Machine) -> None:
    """No key and a wrong one: 401; whether it lives is no secret."""
    assert [ask(app_host, "monitoring/security-status", header)[0] for header in ("", '"X-API-Key": "x"')] == [401, 401]
    assert ask(app_host, "health/live", "")[0] == 200


def test_the_status_is_good(app_host: Machine) -> None:
    """With the key: no control is weak or unknown, the servers are watched, and the four promises are seen to hold."""
    code, body = ask(app_host, "monitoring/security-status")
    assert code == 200
    status = json.loads(body)
    assert [control for control in status["posture"] if control["state"] not in ("ok", "not applicable")] == []
    names = ("redis_authenticated", "tls_enabled", "encryption_enabled", "network_isolated")
    assert {name: status[name] for name in names} == dict.fromkeys(names, True)
    assert status["recent_auth_failures"] is not None
    assert "users' rights" in {control["name"] for control in status["posture"] if control["state"] == "ok"}


@as_unit
@pytest.mark.only(redis=True)
def test_it_names_no_user_that_it_cannot_see(app_host: Machine) -> None:
    """Who has no place in its sandbox shows there as nobody; then the evidence says that much, and else the server's own user."""
    status = json.loads(ask(app_host, "monitoring/security-status")[1])
    (evidence,) = [control["evidence"] for control in status["posture"] if control["name"] == "server process"]
    uid = app_host.out(f"stat -c %u /proc/{app_host.pid}").strip()
    users = [tuple(map(int, line.split())) for line in app_host.lines(f"cat /proc/{pid(app_host)}/uid_map")]
    visible = any(outer <= int(uid) < outer + length for _, outer, length in users)
    said = f"runs as uid {uid}" if visible else "does not run as root; its user is not visible from this sandbox"
    assert evidence == f"process {app_host.pid} {said}"


@as_unit
def test_its_files_are_closed(app_host: Machine) -> None:
    """The key is the app's group's to read, the rest the API's own user's; root alone writes."""
    group = app_host.wanted["app_group"]
    wanted = {
        API: Stat("0750", "root", group),
        f"{API}/key": Stat("0640", "root", group),
        f"{API}/api.env": Stat("0640", "root", group),
        f"{API}/monitor-password": Stat("0640", "root", API_USER),
        f"{API}/client.key": Stat("0640", "root", API_USER),
        f"/etc/systemd/system/{UNIT}": Stat("0644", "root", "root"),
        "/var/lib/redkeep-api": Stat("0700", API_USER, API_USER),
    }
    assert app_host.stat(*wanted) == wanted


def test_its_user_is_nobody_else(app_host: Machine) -> None:
    """A system user without a shell, a home, or a password; the process runs as that user, without capabilities."""
    name, _, uid, _, _, home, shell = app_host.out(f"getent passwd {API_USER}").strip().split(":")
    assert (name, home, shell) == (API_USER, "/nonexistent", "/usr/sbin/nologin")
    assert re.fullmatch(r"[!*]+", app_host.out(f"getent shadow {API_USER}").split(":")[1])
    status = dict(line.split(":\t", 1) for line in app_host.lines(f"cat /proc/{pid(app_host)}/status") if ":\t" in line)
    assert set(status["Uid"].split()) == {uid}
    umask = "0077" if app_host.api == "unit" else "0022"
    assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == ("1", "2", umask)
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")} == {0}


@as_unit
def test_exposure_is_low(app_host: Machine) -> None:
    """systemd-analyze finds 1.1 or less where it must see the server's process, and 1.0 elsewhere; 0.2 more without a list
    of addresses that it may reach."""
    output = app_host.out(f"systemd-analyze security --no-pager {UNIT} 2>/dev/null | tail -1")
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", output)
    assert found, output
    listed = "IPAddressDeny=any" in app_host.read(f"/etc/systemd/system/{UNIT}")
    least = 1.1 if "redis" in app_host.wanted.member.groups else 1.0
    assert float(found[1]) <= least + (0.0 if listed else 0.2)


@as_unit
def test_it_sees_the_disk_read_only(app_host: Machine) -> None:
    """In its view everything is mounted read-only but its own state."""
    mounts = {words[4]: words[5].split(",") for words in map(str.split, app_host.lines(f"cat /proc/{pid(app_host)}/mountinfo"))}
    assert "ro" in mounts["/"]
    assert "rw" in mounts["/var/lib/redkeep-api"]


@as_unit
def test_its_log_holds_no_key(app_host: Machine) -> None:
    """Nor the monitor's password."""
    found = app_host.out(
        f"journalctl -u {UNIT} --no-pager -o cat | grep -cF -f /dev/fd/3 3<<END || true\n$(cat {API}/key {API}/monitor-password)\nEND"
    )
    assert found.strip() == "0"


@as_container
def test_its_container_reads_what_is_its_own(app_host: Machine) -> None:
    """The key is the app's group's to read, the rest the API's own user's; it writes its state and nothing else."""
    group, user = app_host.wanted["app_group"], Stat("0640", "root", API_USER)
    wanted = {API: Stat("0750", "root", group), f"{API}/key": Stat("0640", "root", group), f"{API}/ca.crt": Stat("0644", "root", "root")}
    wanted |= dict.fromkeys((f"{API}/cache.env", f"{API}/client.key", f"{API}/server.key"), user)
    wanted |= {"/var/lib/redkeep-api": Stat("0700", API_USER, API_USER)}
    if app_host.dashboard:
        wanted |= {"/etc/redkeep/dashboard": Stat("0750", "root", API_USER), "/etc/redkeep/dashboard/key": user}
    assert app_host.stat(*wanted) == wanted
    mounts = json.loads(app_host.out(f"docker inspect --format '{{{{json .Mounts}}}}' {container(app_host)}"))
    assert {(m["Source"], m["RW"]) for m in mounts} == {(API, False), ("/var/lib/redkeep-api", True)}


@as_container
def test_its_networks_are_the_edge_and_the_servers(app_host: Machine) -> None:
    """The API is on both, the dashboard on the edge alone; the edge is no internal network."""
    form = "'{{range $name, $_ := .NetworkSettings.Networks}}{{println $name}}{{end}}'"
    found = {name: set(app_host.out(f"docker inspect --format {form} {container(app_host, name)}").split())
             for name in ("api", *(["dashboard"] if app_host.dashboard else []))}  # fmt: skip
    wanted = {"api": {"redkeep_edge", "redkeep_internal"}} | ({"dashboard": {"redkeep_edge"}} if app_host.dashboard else {})
    assert found == wanted
    assert json.loads(app_host.out("docker network inspect redkeep_edge"))[0]["Internal"] is False


@as_container
def test_its_container_s_log_holds_no_key(app_host: Machine) -> None:
    """Nor the monitor's password."""
    words = f"$(cat {API}/key; sed -n 's/^REDIS_MONITOR_PASSWORD=//p' {API}/cache.env)"
    found = app_host.out(f"docker logs {container(app_host)} 2>&1 | grep -cF -f /dev/fd/3 3<<END || true\n{words}\nEND")
    assert found.strip() == "0"
