"""Who may read and write what the deploy left on the disk."""

from __future__ import annotations

import pytest

from .machine import CACHE_ENV, OPERATOR, Machine, Stat


def test_servers_files_are_roots_and_read_by_the_server_alone(redis_host: Machine) -> None:
    """Everything below /etc/redis belongs to root, is read by the server's group and written by root alone."""
    wanted = {"f": Stat("0640", "root", redis_host.engine), "d": Stat("0750", "root", redis_host.engine)}
    tree = redis_host.tree(redis_host.folder)
    assert {path: found for path, found in tree.items() if found != (found[0], wanted.get(found[0]))} == {}


def test_servers_folder_holds_what_is_managed_and_nothing_else(redis_host: Machine) -> None:
    """No backup copy, editor file or second configuration lies beside the managed ones."""
    used = redis_host.config("tls-cert-file")["tls-cert-file"].rpartition("/")[0]
    names = [f"{redis_host.engine}.conf", "users.acl", "openssl.cnf", "tls"]
    if redis_host.wanted["redis_runtime"] == "docker":
        names += ["health", *(f"health/{name}" for name in ("check", "password", "ca.crt", "client.crt", "client.key"))]
    wanted = {redis_host.folder, used, *(f"{redis_host.folder}/{name}" for name in names)}
    wanted |= {f"{used}/{name}" for name in ("server.crt", "server.key", "ca.crt")}
    assert set(redis_host.tree(redis_host.folder)) == wanted


def test_operators_files_are_for_root_alone(redis_host: Machine) -> None:
    """/etc/redkeep/operator and everything in it can be entered and read by root only."""
    private = Stat("0600", "root", "root")
    wanted = {OPERATOR: ("d", Stat("0700", "root", "root"))}
    wanted |= {f"{OPERATOR}/{name}": ("f", private) for name in ("password", "client.crt", "client.key", "ca.crt")}
    assert redis_host.tree(OPERATOR) == wanted


def test_apps_files_are_for_root_and_the_apps_group(app_host: Machine) -> None:
    """cache.env and the client's key: root writes, the app's group reads, nobody else."""
    group = app_host.wanted["app_group"]
    tls = "/etc/redkeep/tls"
    wanted = {
        CACHE_ENV: Stat("0640", "root", group),
        tls: Stat("0750", "root", group),
        f"{tls}/client.key": Stat("0640", "root", group),
        f"{tls}/client.crt": Stat("0644", "root", group),
        f"{tls}/ca.crt": Stat("0644", "root", group),
    }
    assert app_host.stat(*wanted) == wanted


def test_folder_of_redkeep_holds_what_is_managed(any_host: Machine) -> None:
    """/etc/redkeep has the parts of this host's roles and no other."""
    groups = any_host.wanted.member.groups
    wanted = {"operator"} if "redis" in groups else set()
    wanted |= {"cache.env", "tls"} if "app" in groups else set()
    wanted |= {"api"} if any_host.api else set()
    wanted |= {"dashboard"} if any_host.dashboard else set()
    wanted |= {"firewall.nft"} if any_host.wanted.firewall else set()
    wanted |= {"stack"} if "redis" in groups and any_host.wanted["redis_runtime"] == "docker" else set()
    assert set(any_host.lines("ls -A /etc/redkeep")) == wanted


def test_folder_of_redkeep_is_written_by_root_alone(any_host: Machine) -> None:
    """/etc/redkeep and everything in it belongs to root and is writable to nobody else; there are no links."""
    tree = any_host.tree("/etc/redkeep")
    assert tree["/etc/redkeep"] == ("d", Stat("0755", "root", "root"))
    assert {
        p for p, (kind, stat) in tree.items() if kind not in "fd" or stat.owner != "root" or int(stat.mode, 8) & 0o022
    } == set()


def test_tools_are_roots(redis_host: Machine) -> None:
    """The way in as operator can be used by root alone; the daily check is written by root alone."""
    wanted = {
        "/usr/local/sbin/redkeep-cli": Stat("0700", "root", "root"),
        "/usr/local/sbin/redkeep-certificates": Stat("0755", "root", "root"),
        "/var/lib/redkeep": Stat("0755", "root", "root"),
        "/etc/sysctl.d/90-redkeep.conf": Stat("0644", "root", "root"),
        "/etc/tmpfiles.d/redkeep.conf": Stat("0644", "root", "root"),
    }
    boxed = redis_host.wanted["redis_runtime"] == "docker"
    rotation, stack = f"/etc/logrotate.d/{redis_host.engine}-server", "/usr/local/sbin/redkeep-stack"
    wanted |= {stack: Stat("0750", "root", "root")} if boxed else {rotation: Stat("0644", "root", "root")}
    assert redis_host.stat(*wanted) == wanted


def test_data_and_logs_are_the_servers(redis_host: Machine) -> None:
    """Data, log and run folder belong to the server's user; nothing in data and log is open to others."""
    user = redis_host.engine
    wanted = {f"/var/lib/{user}": Stat("0750", user, user)}
    if redis_host.wanted["redis_runtime"] == "native":  # a container's log is the engine's
        wanted |= {f"/var/log/{user}": Stat("2750", user, "adm")}
    assert redis_host.stat(*wanted) == wanted
    trees = [redis_host.tree(folder) for folder in wanted]
    assert [path for tree in trees for path, (_, stat) in tree.items() if int(stat.mode, 8) & 0o007] == []


@pytest.mark.only(runtime="native")
def test_log_is_rotated(redis_host: Machine) -> None:
    """logrotate understands the managed rule for the server's log (a dry run)."""
    rule = f"/etc/logrotate.d/{redis_host.engine}-server"
    result = redis_host.run(f"logrotate -d {rule} 2>&1")
    assert result.rc == 0
    assert "error" not in result.stdout.lower()
    assert f"rotate {redis_host.wanted['redis_log_weeks']}" in redis_host.read(rule)


@pytest.mark.only(systemd=True, runtime="native")
def test_unit_files_are_roots(redis_host: Machine) -> None:
    """The drop-in and the timer can be changed by root alone, their folder included."""
    folder = f"/etc/systemd/system/{redis_host.unit}.d"
    plain = Stat("0644", "root", "root")
    wanted = {folder: Stat("0755", "root", "root"), f"{folder}/redkeep.conf": plain}
    wanted |= {f"/etc/systemd/system/redkeep-certificates.{kind}": plain for kind in ("service", "timer")}
    assert redis_host.stat(*wanted) == wanted
