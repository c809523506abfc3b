"""The host's controls, on made-up /proc and /sys trees: never green without proof, never red for a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from redkeep.monitoring.control import Control
from redkeep.monitoring.host import in_container, is_here, probe_host
from redkeep.target import Target, build_target

TARGET = build_target(redis_url="rediss://127.0.0.1:6380/0")
HARDENED = "Name:\tredis-server\nUmask:\t0077\nUid:\t110\t110\t110\t110\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"


class Host:
    """A fake root folder with the files that the probe reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/sys/vm/overcommit_memory", "1\n")
        self.write("proc/sys/net/core/somaxconn", "1024\n")
        self.write("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
        self.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n")
        (root / "run/systemd/system").mkdir(parents=True)
        self.server()

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def server(self, status: str = HARDENED, *, pid: int = 700, title: str = "127.0.0.1:6380", unit: bool = True) -> None:
        self.write(f"proc/{pid}/comm", "redis-server\n")
        self.write(f"proc/{pid}/cmdline", f"/usr/bin/redis-server {title}\0\0\0")
        self.write(f"proc/{pid}/status", status)
        self.write(f"proc/{pid}/cgroup", "0::/system.slice/redis-server.service\n" if unit else "0::/\n")

    def controls(self, target: Target = TARGET) -> dict[str, Control]:
        found = probe_host(target, proc=self.root / "proc", sys=self.root / "sys")
        return {control.name: control for control in found}

    def states(self, target: Target = TARGET) -> dict[str, str]:
        return {name: control.state for name, control in self.controls(target).items() if control.state != "ok"}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_hardened_host_holds(host: Host) -> None:
    """Five controls, all ok."""
    assert host.states() == {}
    assert len(host.controls()) == 5


def test_redis_elsewhere(host: Host) -> None:
    """For a Redis on another machine the host's controls do not arise (192.0.2.0/24 belongs to nobody, RFC 5737)."""
    elsewhere = build_target(redis_url="rediss://192.0.2.7:6380/0")
    assert {"not applicable"} == set(host.states(elsewhere).values())
    assert len(host.states(elsewhere)) == 5


def test_redis_in_a_container_of_this_host(host: Host) -> None:
    """The container's address is none of this host's, but its process shows here: it is judged, and the kernel is ours."""
    boxed = build_target(redis_url="rediss://192.0.2.7:6380/0")
    host.server(title="192.0.2.7:6380", unit=False)
    table = "Local:\n  |-- 192.0.2.0\n     /24 link UNICAST\n     |-- 192.0.2.7\n        /32 host LOCAL\n"
    host.write("proc/700/net/fib_trie", table)
    assert {"connection backlog": "not applicable"} == host.states(boxed)
    host.server(HARDENED.replace("110\t110", "0\t0").replace("Seccomp:\t2", "Seccomp:\t0"), title="192.0.2.7:6380", unit=False)
    host.write("proc/sys/vm/overcommit_memory", "0")
    assert {"memory overcommit", "server process", "server sandbox"} == {n for n, s in host.states(boxed).items() if s == "weak"}
    host.write("proc/700/net/fib_trie", table.replace("2.7", "2.8"))
    assert {"not applicable"} == set(host.states(boxed).values())


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        ("proc/sys/vm/overcommit_memory", "0", "memory overcommit"),
        ("proc/sys/vm/overcommit_memory", "2", "memory overcommit"),
        ("proc/sys/net/core/somaxconn", "128", "connection backlog"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never", "huge pages"),
    ],
)
@pytest.mark.parametrize("mark", [None, ".dockerenv", "run/.containerenv", "run/systemd/container"])
def test_kernel_settings(host: Host, path: str, text: str, name: str, mark: str | None) -> None:
    """A wrong kernel setting is weak with a remedy on a machine, and not applicable in a container, with the reason."""
    host.write(path, text)
    if mark:
        host.write(mark, "")
    assert {name: "not applicable" if mark else "weak"} == host.states()
    control = host.controls()[name]
    assert ("container" in control.evidence) == bool(mark)
    assert bool(control.remedy) == (mark is None)


def test_windows_subsystem_is_a_container(host: Host) -> None:
    """In WSL the kernel is somebody else's, too."""
    host.write("proc/sys/kernel/osrelease", "5.15.90.1-microsoft-standard-WSL2")
    assert in_container(host.root / "proc")


def test_unreadable_kernel_settings_are_unknown(host: Host) -> None:
    """What cannot be read is not ok."""
    (host.root / "proc/sys/vm/overcommit_memory").unlink()
    (host.root / "sys/kernel/mm/transparent_hugepage/enabled").unlink()
    assert host.states() == {"memory overcommit": "unknown", "huge pages": "not applicable"}


def test_madvise_is_good_enough(host: Host) -> None:
    """Huge pages on demand do not touch Redis."""
    host.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    assert host.states() == {}


def test_root_process(host: Host) -> None:
    """The effective user counts."""
    host.server(HARDENED.replace("110\t110\t110\t110", "110\t0\t0\t0"))
    assert host.states() == {"server process": "weak"}


@pytest.mark.parametrize(
    ("uid", "users", "state", "words"),
    [
        ("65534", "         0          0 4294967295", "ok", "process 700 runs as uid 65534"),
        ("65534", "", "ok", "process 700 runs as uid 65534"),
        ("65534", "0 0 1\n998 998 1", "ok", "process 700 does not run as root; its user is not visible from this sandbox"),
        ("998", "0 0 1\n998 998 1", "ok", "process 700 runs as uid 998"),
        ("0", "0 0 1\n998 998 1", "weak", "process 700 runs as root"),
        ("65534", "998 998 1", "unknown", "the user of process 700 is not visible from this sandbox"),
        ("65534", "0 100000 65536", "unknown", "the user of process 700 is not visible from this sandbox"),
    ],
)
def test_whose_the_process_is_seen_from_a_sandbox(host: Host, uid: str, users: str, state: str, words: str) -> None:
    """A number that stands for every user whom the sandbox does not have is not shown as one, nor taken for "not root" unless it is."""
    host.write("proc/self/uid_map", users + "\n")
    host.server(HARDENED.replace("110\t110\t110\t110", "\t".join([uid] * 4)))
    control = host.controls()["server process"]
    assert (state, words) == (control.state, control.evidence)


def test_the_kernels_own_number_for_nobody(host: Host) -> None:
    """It can be another than 65534."""
    host.write("proc/self/uid_map", "0 0 1\n")
    host.write("proc/sys/kernel/overflowuid", "65535\n")
    for uid, visible in (("65535", False), ("65534", True)):
        host.server(HARDENED.replace("110\t110\t110\t110", "\t".join([uid] * 4)))
        assert visible == (f"uid {uid}" in host.controls()["server process"].evidence)


@pytest.mark.parametrize(
    ("old", "new", "lack"),
    [
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "no_new_privs"),
        ("Seccomp:\t2", "Seccomp:\t0", "system call filter"),
        ("CapEff:\t0000000000000000", "CapEff:\t000001ffffffffff", "capability"),
        ("Umask:\t0077", "Umask:\t0022", "umask"),
        ("NoNewPrivs:\t1\n", "", "no_new_privs"),
    ],
)
def test_sandbox(host: Host, old: str, new: str, lack: str) -> None:
    """Each protection that the kernel does not enforce on the process is named."""
    host.server(HARDENED.replace(old, new))
    assert host.states() == {"server sandbox": "weak"}
    assert lack in host.controls()["server sandbox"].evidence


def test_no_systemd(host: Host) -> None:
    """Where there is no systemd there is no unit sandbox: said, not failed, and not green."""
    (host.root / "run/systemd/system").rmdir()
    host.server(HARDENED.replace("Seccomp:\t2", "Seccomp:\t0"), unit=False)
    assert host.states() == {"server sandbox": "not applicable"}


def test_container_server_needs_no_umask(host: Host) -> None:
    """Docker's own confinement holds as well; the umask is the drop-in's."""
    host.server(HARDENED.replace("0077", "0022"), unit=False)
    assert host.states() == {}
    host.write("proc/700/cgroup", "0::/system.slice/docker.service/docker/28d5fd4e40a3\n")
    assert host.states() == {}


def test_right_process_among_several(host: Host) -> None:
    """Of several servers the one with our port in its title counts, and `:638` is not `:6380`."""
    host.server(HARDENED.replace("110\t110", "110\t0"), pid=600, title="127.0.0.1:638")
    host.server(HARDENED.replace("110\t110", "110\t0"), pid=601, title="127.0.0.1:26379 [sentinel]")
    assert host.states() == {}


def test_server_in_a_container_is_another(host: Host) -> None:
    """A container's server with the same title has its own network and is not ours."""
    host.server(HARDENED.replace("110\t110", "110\t0"), pid=600)
    for folder, network in (("self", 1), ("700", 1), ("600", 2)):
        (host.root / f"proc/{folder}/ns").mkdir(parents=True)
        (host.root / f"proc/{folder}/ns/net").symlink_to(f"net:[{network}]")
    assert host.states() == {}


def test_two_servers_with_one_title_are_unknown(host: Host) -> None:
    """Where the networks cannot be seen, a guess would be green by chance."""
    host.server(pid=600)
    assert host.states() == {"server process": "unknown", "server sandbox": "unknown"}


def test_server_of_another_port_is_not_ours(host: Host) -> None:
    """The only Redis of the host, but for another port: nothing is known about ours."""
    host.server(title="127.0.0.1:1")
    assert host.states() == {"server process": "unknown", "server sandbox": "unknown"}


def test_zombie_is_no_server(host: Host) -> None:
    """A dead process that nobody has collected keeps its name and loses its command line."""
    host.server(title="", pid=600)
    host.write("proc/600/cmdline", "")
    host.server(title="")
    assert host.states() == {}


def test_title_without_an_address(host: Host) -> None:
    """With `proc-title-template` changed, the only server is taken to be ours."""
    host.server(title="")
    assert host.states() == {}


def test_hidden_process_is_unknown(host: Host) -> None:
    """Several servers and none with our port, or none at all: nothing is known."""
    host.server(title="127.0.0.1:1", pid=700)
    host.server(title="127.0.0.1:2", pid=701)
    assert host.states() == {"server process": "unknown", "server sandbox": "unknown"}


def test_unreadable_status_is_unknown(host: Host) -> None:
    """A process that hides its state (hidepid) is not ok."""
    (host.root / "proc/700/status").unlink()
    assert host.states() == {"server process": "unknown", "server sandbox": "unknown"}


def test_is_here() -> None:
    """Loopback is this machine; an address of nobody and a name of nobody are not."""
    assert tuple(map(is_here, ("127.0.0.1", "localhost", "192.0.2.7", "redis.invalid"))) == (True, True, False, False)
