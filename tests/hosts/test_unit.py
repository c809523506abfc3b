"""The service: how it is started, and how little the process may do."""

from __future__ import annotations

import re

import pytest

from .machine import MANAGED, Machine

# A container's server has its own module, test_container.
pytestmark = pytest.mark.only(redis=True, runtime="native")


def _status(machine: Machine) -> dict[str, str]:
    lines = machine.lines(f"cat /proc/{machine.pid}/status")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# --- everywhere ----------------------------------------------------------------------------------------------------


def test_process_is_not_root(redis_host: Machine) -> None:
    """All four user ids and all groups of the process are the server's own."""
    status = _status(redis_host)
    user, group = redis_host.out(f"id -u {redis_host.engine}; id -g {redis_host.engine}").split()
    assert set(status["Uid"].split()) == {user}
    assert set(status["Gid"].split()) == {group}
    assert set(status["Groups"].split()) <= {group}


def test_process_has_no_capabilities(redis_host: Machine) -> None:
    """The process has no effective, permitted, inheritable or ambient capability."""
    status = _status(redis_host)
    assert {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {
        "CapEff": 0, "CapPrm": 0, "CapInh": 0, "CapAmb": 0,
    }  # fmt: skip


def test_process_may_hold_its_clients(redis_host: Machine) -> None:
    """The limit of open files is above maxclients and what Redis keeps for itself (32)."""
    limits = redis_host.out(f"grep 'Max open files' /proc/{redis_host.pid}/limits").split()
    assert int(limits[3]) >= redis_host.wanted["redis_maxclients"] + 32


def test_stock_configuration_never_ran(redis_host: Machine) -> None:
    """Since Redkeep manages the host, no start in the server's log that is still there was on a plaintext port."""
    log = f"/var/log/{redis_host.engine}/{redis_host.engine}-server.log"
    script = f"""since=$(stat -c %Y {MANAGED})
for f in {log} {log}.1; do [ -e "$f" ] && grep -h 'Running mode=' "$f"; done | while read -r pid day month year time rest; do
[ "$(date -d "$day $month $year ${{time%.*}}" +%s)" -lt "$since" ] || echo "$rest"; done"""
    starts = redis_host.lines(script)
    assert [start for start in starts if f"port={redis_host.wanted.port}." not in start] == []


def test_process_writes_no_core(redis_host: Machine) -> None:
    """The process writes no core file: memory with values and keys does not land on the disk."""
    limits = redis_host.out(f"grep 'Max core file size' /proc/{redis_host.pid}/limits").split()
    assert limits[4:6] == ["0", "0"]


def test_files_of_the_process_are_closed_to_others(redis_host: Machine) -> None:
    """What the process writes is closed to all but its own user and its own group (that of the init script: 0007)."""
    assert int(_status(redis_host)["Umask"], 8) & 0o007 == 0o007


# --- under systemd -------------------------------------------------------------------------------------------------


@pytest.mark.only(systemd=True)
def test_unit_is_enabled_and_active(redis_host: Machine) -> None:
    """The distribution's unit is enabled and runs the server process; nothing has changed on disk since it was loaded."""
    shown = redis_host.lines(
        f"systemctl show -p UnitFileState,ActiveState,SubState,NeedDaemonReload,MainPID {redis_host.unit} | sort"
    )
    assert shown == [
        "ActiveState=active", f"MainPID={redis_host.pid}", "NeedDaemonReload=no", "SubState=running", "UnitFileState=enabled",
    ]  # fmt: skip


@pytest.mark.only(systemd=True)
def test_sandbox_is_loaded(redis_host: Machine) -> None:
    """systemd has loaded our drop-in onto the distribution's own unit file, and read it in the text that is on disk."""
    shown = redis_host.out(f"systemctl show -p FragmentPath,DropInPaths,Environment {redis_host.unit}")
    path = f"/etc/systemd/system/{redis_host.unit}.d/redkeep.conf"
    assert re.search(rf"FragmentPath=(/usr)?/lib/systemd/system/{redis_host.unit}", shown)
    assert path in shown
    digest = re.search(r"REDKEEP_SANDBOX=(\w+)", redis_host.read(path))
    assert digest
    assert digest[0] in shown


@pytest.mark.only(systemd=True)
def test_process_was_started_in_the_sandbox(redis_host: Machine) -> None:
    """The process was started after the drop-in was written, and has the limit of open files that the unit sets."""
    path = f"/etc/systemd/system/{redis_host.unit}.d/redkeep.conf"
    shown = redis_host.out(f"systemctl show --timestamp=unix -p ActiveEnterTimestamp,LimitNOFILE {redis_host.unit}")
    started, files = (re.search(rf"{name}=@?(\d+)", shown) for name in ("ActiveEnterTimestamp", "LimitNOFILE"))
    assert started
    assert files
    written, limit = redis_host.out(
        f"stat -c %Y {path}; awk '/Max open files/ {{print $4}}' /proc/{redis_host.pid}/limits"
    ).split()
    assert int(written) <= int(started[1])
    assert limit == files[1]


@pytest.mark.only(systemd=True)
def test_unit_has_no_secret_in_its_environment(redis_host: Machine) -> None:
    """The unit gets the OpenSSL policy and a mark for the deploy, and no file of variables."""
    shown = redis_host.out(f"systemctl show -p Environment,EnvironmentFiles {redis_host.unit}")
    names = {word.partition("=")[0] for word in shown.replace("Environment=", "").split()}
    assert names == {"OPENSSL_CONF", "REDKEEP_SANDBOX"}
    assert f"OPENSSL_CONF={redis_host.folder}/openssl.cnf" in shown


@pytest.mark.only(systemd=True)
def test_exposure_is_low(redis_host: Machine) -> None:
    """systemd-analyze, given the unit file and our drop-in alone, finds 0.9 or less; 1.0 when app hosts may connect."""
    folder = f"/etc/systemd/system/{redis_host.unit}.d"
    output = redis_host.out(
        f"""set -e; t=$(mktemp -d); trap 'rm -rf "$t"' EXIT HUP INT TERM; mkdir "$t/{redis_host.unit}.d"
cp "$(systemctl show -p FragmentPath --value {redis_host.unit})" "$t/{redis_host.unit}"
cp {folder}/redkeep.conf "$t/{redis_host.unit}.d/"
SYSTEMD_UNIT_PATH="$t": systemd-analyze security --offline=true --no-pager "$t/{redis_host.unit}" 2>/dev/null | tail -1"""
    )
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", output)
    assert found, output
    assert float(found[1]) <= (1.0 if redis_host.wanted.clients else 0.9)


@pytest.mark.only(systemd=True)
def test_process_cannot_gain_privileges(redis_host: Machine) -> None:
    """NoNewPrivileges holds, a system call filter is on (mode 2), and the bounding set is empty."""
    status = _status(redis_host)
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == ("1", "2", 0)


@pytest.mark.only(systemd=True)
def test_files_of_the_process_are_its_own(redis_host: Machine) -> None:
    """What the process writes can be read by its user alone: the umask is 0077."""
    assert _status(redis_host)["Umask"] == "0077"


@pytest.mark.only(systemd=True)
def test_process_sees_the_disk_read_only(redis_host: Machine) -> None:
    """In the view of the process the root, and with it /etc, is mounted read-only; its data folder is the exception."""
    mounts = {}
    for line in redis_host.lines(f"cat /proc/{redis_host.pid}/mountinfo"):
        words = line.split()
        mounts[words[4]] = words[5].split(",")
    assert "ro" in mounts["/"]
    assert "ro" in mounts.get("/etc", mounts["/"])
    assert "ro" in mounts.get(redis_host.folder, mounts["/"])
    assert "rw" in mounts[f"/var/lib/{redis_host.engine}"]
    assert "noexec" in mounts["/"]


@pytest.mark.only(systemd=True)
def test_process_has_a_tmp_of_its_own(redis_host: Machine) -> None:
    """/tmp of the process is private, and so is its mount namespace."""
    mine, theirs = redis_host.out(f"readlink /proc/1/ns/mnt /proc/{redis_host.pid}/ns/mnt").split()
    assert mine != theirs
    assert "systemd-private-" in redis_host.out(f"grep ' /tmp ' /proc/{redis_host.pid}/mountinfo")


# --- without systemd -----------------------------------------------------------------------------------------------


@pytest.mark.only(systemd=False)
def test_init_script_starts_the_server(redis_host: Machine) -> None:
    """The distribution's init script knows the process as running, and the runlevels start it."""
    name = f"{redis_host.engine}-server"
    assert redis_host.run(f"service {name} status").rc == 0
    assert redis_host.read(f"/run/{redis_host.engine}/{name}.pid").strip() == redis_host.pid
    assert redis_host.lines(f"ls /etc/rc2.d | grep -c '^S..{name}$'") == ["1"]


@pytest.mark.only(systemd=False)
def test_init_script_is_the_distributions(redis_host: Machine) -> None:
    """The init script is unchanged from the package, and what we add stands in /etc/default."""
    name = f"{redis_host.engine}-server"
    known = redis_host.out(f"dpkg-query -W -f '${{Conffiles}}' {name} | awk '$1 == \"/etc/init.d/{name}\" {{print $2}}'").strip()
    assert redis_host.out(f"md5sum < /etc/init.d/{name}").split()[0] == known
    assert redis_host.read(f"/etc/default/{name}").startswith("# Managed by redkeep")
