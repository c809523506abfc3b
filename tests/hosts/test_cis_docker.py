"""Section 5 of the CIS Docker Benchmark (1.6), each check by its number, over every container of the stack.

What `docker inspect` and the kernel tell. Not here: 5.23, 5.24 and 5.28 judge how people use `docker exec` and `pull`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .machine import Machine

pytestmark = pytest.mark.only(runtime="docker")
Container = dict[str, Any]

# Folders of the host whose content would give it away. Ours are below them, and read-only but for data.
SENSITIVE = {"/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/var", "/var/lib", "/run", "/root"}


def _kernel_has(machine: Machine, path: str) -> bool:
    return bool(machine.run(f"[ -e {path} ] && ! grep -qx N {path}").rc == 0)


def _apparmor(machine: Machine, one: Container) -> bool:
    return not _kernel_has(machine, "/sys/module/apparmor/parameters/enabled") or one["AppArmorProfile"] not in ("", "unconfined")


def _selinux(machine: Machine, one: Container) -> bool:
    return not _kernel_has(machine, "/sys/fs/selinux/enforce") or any("label" in option for option in one["HostConfig"]["SecurityOpt"])


def _capabilities(machine: Machine, one: Container) -> bool:
    return bool(one["HostConfig"]["CapDrop"] == ["ALL"] and not one["HostConfig"]["CapAdd"])


def _no_sshd(machine: Machine, one: Container) -> bool:
    return "sshd" not in machine.out(f"docker top {one['Id']} -o pid,comm")


def _bindings(one: Container) -> list[dict[str, str]]:
    return [binding for found in (one["HostConfig"]["PortBindings"] or {}).values() for binding in found]


def _ports(machine: Machine, one: Container) -> bool:
    wanted = {"redis": [], "api": [machine.wanted["api_port"]], "dashboard": [machine.wanted["dashboard_port"]]}
    return bool([int(binding["HostPort"]) for binding in _bindings(one)] == wanted[one["Config"]["Labels"]["com.docker.compose.service"]])


def _limits(machine: Machine, one: Container) -> bool:
    group = machine.out(f"cat /proc/{one['State']['Pid']}/cgroup")
    return one["HostConfig"]["CgroupParent"] == "" and one["Id"] in group


def _nowhere(one: Container, *paths: str) -> bool:
    return not any(mount["Source"] in paths for mount in one["Mounts"])


CHECKS: dict[str, tuple[str, Callable[[Machine, Container], bool]]] = {
    "5.1": ("swarm mode is off", lambda m, c: m.out("docker info --format '{{.Swarm.LocalNodeState}}'").strip() == "inactive"),
    "5.2": ("an AppArmor profile, where the kernel has it", _apparmor),
    "5.3": ("an SELinux label, where the kernel has it", _selinux),
    "5.4": ("no capabilities", _capabilities),
    "5.5": ("not privileged", lambda m, c: not c["HostConfig"]["Privileged"]),
    "5.6": ("no sensitive folder of the host", lambda m, c: _nowhere(c, *SENSITIVE)),
    "5.7": ("no sshd", _no_sshd),
    "5.8": ("no privileged port", lambda m, c: all(int(binding["HostPort"]) >= 1024 for binding in _bindings(c))),
    "5.9": ("no port but the wanted one", _ports),
    "5.10": ("not the host's network", lambda m, c: c["HostConfig"]["NetworkMode"] != "host"),
    "5.11": ("bounded memory", lambda m, c: c["HostConfig"]["Memory"] > 0),
    "5.12": ("a share of the processors", lambda m, c: c["HostConfig"]["CpuShares"] > 0 < c["HostConfig"]["NanoCpus"]),
    "5.13": ("a read-only root", lambda m, c: c["HostConfig"]["ReadonlyRootfs"]),
    "5.14": ("ports on the loopback address alone", lambda m, c: {b["HostIp"] for b in _bindings(c)} <= {"127.0.0.1"}),
    "5.15": ("started again on failure, five times", lambda m, c: c["HostConfig"]["RestartPolicy"]
             == {"Name": "on-failure", "MaximumRetryCount": 5}),
    "5.16": ("not the host's processes", lambda m, c: c["HostConfig"]["PidMode"] == ""),
    "5.17": ("not the host's IPC", lambda m, c: c["HostConfig"]["IpcMode"] in ("private", "none")),
    "5.18": ("no device of the host", lambda m, c: not c["HostConfig"]["Devices"]),
    "5.19": ("limits of its own where they matter: no core file", lambda m, c: {"core": 0}.items()
             <= {u["Name"]: u["Hard"] for u in c["HostConfig"]["Ulimits"]}.items()),
    "5.20": ("no shared mount", lambda m, c: not any("shared" in mount["Propagation"] for mount in c["Mounts"])),
    "5.21": ("not the host's name", lambda m, c: c["HostConfig"]["UTSMode"] == ""),
    "5.22": ("the default seccomp profile", lambda m, c: not any("seccomp" in option for option in c["HostConfig"]["SecurityOpt"])),
    "5.25": ("a control group of its own", _limits),
    "5.26": ("no new privileges", lambda m, c: "no-new-privileges:true" in c["HostConfig"]["SecurityOpt"]),
    "5.27": ("a health check", lambda m, c: c["Config"]["Healthcheck"]["Test"][0] in ("CMD", "CMD-SHELL")),
    "5.29": ("a limit of processes", lambda m, c: c["HostConfig"]["PidsLimit"] > 0),
    "5.30": ("not on the default bridge", lambda m, c: "bridge" not in c["NetworkSettings"]["Networks"]),
    "5.31": ("not the host's user namespace by choice", lambda m, c: c["HostConfig"]["UsernsMode"] == ""),
    "5.32": ("not the engine's socket", lambda m, c: _nowhere(c, "/var/run/docker.sock", "/run/docker.sock")),
}  # fmt: skip


@pytest.mark.parametrize("number", CHECKS)
def test_cis_docker(redis_host: Machine, number: str) -> None:
    """The check holds for each container of the stack."""
    what, holds = CHECKS[number]
    found = json.loads(redis_host.out("docker inspect $(docker ps --quiet --filter label=com.docker.compose.project=redkeep)"))
    assert found
    assert [] == [one["Name"] for one in found if not holds(redis_host, one)], what
