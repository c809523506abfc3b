"""Controls of the host: files on this machine, and, when Redis runs here, its kernel settings and its process.

Read from /proc and /sys, the running truth, with the standard library and no subprocess: 2 ms. Sources of the numbers:
Redis' administration guide (overcommit, transparent huge pages) and Redis' own `tcp-backlog` of 511.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from redkeep.monitoring.control import Control
from redkeep.monitoring.network_space import owns
from redkeep.target import Target

BACKLOG: Final = 511
_SERVERS: Final = frozenset({"redis-server", "valkey-server"})
_NOBODY: Final = "65534"
"""The kernel's own `overflowuid`, where it hides its settings."""

_EVERY_USER: Final = (0, 0, 2**32 - 1)
"""The line of /proc/self/uid_map outside any user namespace."""

_HOST_CONTROLS: Final = ("memory overcommit", "connection backlog", "huge pages", "server process", "server sandbox")


def probe_files(target: Target) -> Iterator[Control]:
    """The env file and the client key must not be readable by every user, and nothing here writable by them."""
    yield _private("env file", target.env_file, "settings come from the environment, not from a file")
    yield _private("client key file", target.key_file, "no client key is configured")
    if target.ca_file is not None:
        yield _unwritable("CA file", target.ca_file)


def probe_host(target: Target, *, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Iterator[Control]:
    """Kernel and process of the Redis server, when it runs on this machine, in a container or not; else "not applicable"."""
    here = is_here(target.host)
    servers = _servers(target.port, proc) if here else contained_servers(target.host, target.port, proc)
    if not here and not servers:
        for name in _HOST_CONTROLS:
            yield Control(name, "not applicable", f"Redis runs on another host, or is not visible from this one ({target.host})")
        return
    contained = in_container(proc)
    yield _number("memory overcommit", proc / "sys/vm/overcommit_memory", "vm.overcommit_memory", 1, 1, contained)
    if here:
        yield _number("connection backlog", proc / "sys/net/core/somaxconn", "net.core.somaxconn", BACKLOG, None, contained)
    else:
        yield Control("connection backlog", "not applicable", "Redis runs in a container with its own network, whose limit is visible only there")
    yield _huge_pages(sys / "kernel/mm/transparent_hugepage/enabled", contained)
    yield from _process(servers, target.port, proc)


def is_here(host: str) -> bool:
    """Tell whether `host` is an address of this machine: only then can a socket be bound to it."""
    try:
        resolved = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in resolved:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
        except OSError:
            continue
    return False


def in_container(proc: Path = Path("/proc")) -> bool:
    """Tell whether the kernel belongs to somebody else: a container, or WSL."""
    root = proc.parent
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv", "run/systemd/container")):
        return True
    return "microsoft" in _text(proc / "sys/kernel/osrelease").lower()


def _private(name: str, path: Path | None, otherwise: str) -> Control:
    if path is None:
        return Control(name, "not applicable", otherwise)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Control(name, "unknown", f"{path}: {error.strerror}", "run as root, or as a user of the app's group")
    loose = mode & 0o037  # anything for others, write or execute for the group
    if loose:
        return Control(name, "weak", f"{path} has mode {mode:04o}", f"chmod 0640 {path}")
    return Control(name, "ok", f"{path} has mode {mode:04o}")


def _unwritable(name: str, path: Path) -> Control:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Control(name, "unknown", f"{path}: {error.strerror}", "run as root, or as a user of the app's group")
    if mode & 0o022:
        return Control(name, "weak", f"{path} has mode {mode:04o}: whoever can write it decides whom we trust", f"chmod go-w {path}")
    return Control(name, "ok", f"{path} has mode {mode:04o}")


def _number(name: str, path: Path, key: str, least: int, most: int | None, contained: bool) -> Control:
    text = _text(path)
    if not text.isdigit():
        return Control(name, "unknown", f"{key} cannot be read here")
    if int(text) >= least and (most is None or int(text) <= most):
        return Control(name, "ok", f"{key} is {text}")
    if contained:
        return Control(name, "not applicable", f"{key} is {text}; it belongs to the machine this container runs on")
    return Control(name, "weak", f"{key} is {text}", f"sysctl -w {key}={1024 if least == BACKLOG else least}")


def _huge_pages(path: Path, contained: bool) -> Control:
    name, text = "huge pages", _text(path)
    if not text:
        return Control(name, "not applicable", "this kernel has no transparent huge pages, or does not show them")
    choice = text.partition("[")[2].partition("]")[0]
    if choice in ("never", "madvise"):
        return Control(name, "ok", f"transparent huge pages: {choice}")
    if contained:
        return Control(name, "not applicable", f"set to {choice}; they belong to the machine this container runs on")
    return Control(name, "weak", f"transparent huge pages: {choice}", f"echo madvise > {path}")


def _process(found: list[Path], port: int, proc: Path) -> Iterator[Control]:
    names = _HOST_CONTROLS[3:]
    if len(found) != 1:
        evidence = f"{len(found) or 'no'} Redis processes for port {port} are visible here"
        for name in names:
            yield Control(name, "unknown", evidence, "run as root" if found and os.geteuid() else "")
        return
    status = dict(line.split(":", 1) for line in _text(found[0] / "status").splitlines() if ":" in line)
    if "Uid" not in status:
        for name in names:
            yield Control(name, "unknown", f"{found[0]}/status cannot be read")
        return
    yield _owner(names[0], found[0].name, status["Uid"].split()[1], proc)
    yield _sandbox(names[1], status, in_unit=_in_unit(found[0]), proc=proc)


def _owner(name: str, pid: str, uid: str, proc: Path) -> Control:
    """Whether it is root's. A sandbox with users of its own (systemd's PrivateUsers=, a rootless container) shows every user that
    it does not have as `overflowuid` (user_namespaces(7)): not root for certain only where it has the outer root.
    """
    if uid == "0":
        return Control(name, "weak", f"process {pid} runs as root", "run Redis as its own user")
    users = [tuple(map(int, line.split())) for line in _text(proc / "self/uid_map").splitlines()]
    if uid != (_text(proc / "sys/kernel/overflowuid") or _NOBODY) or not users or _EVERY_USER in users:
        return Control(name, "ok", f"process {pid} runs as uid {uid}")
    if any(outer == 0 for _, outer, _ in users):
        return Control(name, "ok", f"process {pid} does not run as root; its user is not visible from this sandbox")
    return Control(name, "unknown", f"the user of process {pid} is not visible from this sandbox", "run outside it, or as root")


def _sandbox(name: str, status: dict[str, str], *, in_unit: bool, proc: Path) -> Control:
    """What the kernel enforces on the process, which is what the drop-in asks for; the same holds in a container."""
    lacks = []
    if status.get("NoNewPrivs", "").strip() != "1":
        lacks.append("no_new_privs")
    if status.get("Seccomp", "").strip() != "2":
        lacks.append("a system call filter")
    if int(status.get("CapEff", "1").strip(), 16):
        lacks.append("an empty capability set")
    if in_unit and status.get("Umask", "").strip() not in ("0077", ""):
        lacks.append("umask 0077")
    if not lacks:
        return Control(name, "ok", "no_new_privs, system call filter, no capabilities" + (", umask 0077" if in_unit else ""))
    if not in_unit and not (proc.parent / "run/systemd/system").is_dir():
        return Control(name, "not applicable", f"no systemd here; the process lacks {', '.join(lacks)}")
    return Control(name, "weak", f"the process lacks {', '.join(lacks)}", "deploy again: it restarts the service once")


def _servers(port: int, proc: Path) -> list[Path]:
    """The processes of Redis on `port` by their title (`redis-server 127.0.0.1:6380`), else those whose title
    names no address (`proc-title-template`).

    A server in a container of this machine can have the same title; it has another network, which root can see.
    """
    here = _network(proc / "self")
    every = [folder for folder in _redis_processes(proc) if _network(folder) in (here, None)]
    ours = [folder for folder in every if f":{port} " in _title(folder)]
    return ours or [folder for folder in every if ":" not in _title(folder)]


def contained_servers(host: str, port: int, proc: Path) -> list[Path]:
    """The processes of Redis in a container of this machine whose network has the address of `host`."""
    try:
        addresses = {str(row[4][0]) for row in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
    except OSError:
        return []
    every = [folder for folder in _redis_processes(proc) if any(owns(folder, address) for address in addresses)]
    return [folder for folder in every if f":{port} " in _title(folder)] or every


def _redis_processes(proc: Path) -> list[Path]:
    every = [folder for folder in proc.iterdir() if folder.name.isdigit() and _text(folder / "comm") in _SERVERS]
    return [folder for folder in every if _text(folder / "cmdline")]  # no zombies


def _network(folder: Path) -> str | None:
    try:
        return os.readlink(folder / "ns/net")
    except OSError:
        return None


def _in_unit(folder: Path) -> bool:
    """Whether systemd runs the process as its own service; a container below docker.service is not that."""
    return _text(folder / "cgroup").rpartition("/")[2].startswith(("redis", "valkey"))


def _title(folder: Path) -> str:
    """The word with the address, with a blank behind so that `:638` is not found in `:6380`."""
    words = _text(folder / "cmdline").replace("\0", " ").split()
    return f"{words[1]} " if len(words) > 1 else ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip().strip("\0")
    except OSError:
        return ""
