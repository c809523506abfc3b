"""The lab's hosts as a pyinfra inventory."""

from __future__ import annotations

import pprint
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.lab.hosts import Host


def ssh_data(host: Host, *, user: str = "root") -> dict[str, object]:
    """pyinfra's connection data for a host: the lab's key, strict checking, nothing of the user's own ssh setup.

    A user other than root works through sudo.
    """
    data: dict[str, object] = {
        "ssh_hostname": host.address,
        "ssh_port": 22,
        "ssh_user": user,
        "ssh_key": str(host.access.key),
        "ssh_config_file": str(host.access.ssh_config),
        "ssh_known_hosts_file": str(host.access.known_host(host.name)),
        "ssh_strict_host_key_checking": "yes",
        "ssh_allow_agent": False,
        "ssh_look_for_keys": False,
    }
    if user != "root":
        data["_sudo"] = True
    return data


def render_inventory(
    groups: Mapping[str, Iterable[Host]],
    *,
    user: str = "root",
    data: Mapping[str, Mapping[str, object]] | None = None,
) -> str:
    """Text of an inventory file with a list per group; `data` adds host data by host name and wins over the lab's own.

    ValueError for a group whose name is no Python identifier, or for data of a host that no group has.
    """
    extra = data or {}
    lines = ["# Written by tests.lab; do not edit.\n"]
    seen: set[str] = set()
    for group, hosts in groups.items():
        if not group.isidentifier() or group.startswith("_"):
            raise ValueError(f"group {group!r} is no name pyinfra reads from an inventory")
        entries = [(host.name, ssh_data(host, user=user) | dict(extra.get(host.name, {}))) for host in hosts]
        seen |= {name for name, _ in entries}
        lines.append(f"{group} = {pprint.pformat(entries, width=120, sort_dicts=False)}\n")
    if unknown := sorted(set(extra) - seen):
        raise ValueError(f"data for hosts that are in no group: {', '.join(unknown)}")
    return "\n".join(lines)


def write_inventory(
    path: Path,
    groups: Mapping[str, Iterable[Host]],
    *,
    user: str = "root",
    data: Mapping[str, Mapping[str, object]] | None = None,
) -> Path:
    """Write `render_inventory` to a file; its name without `.py` becomes a group of all its hosts in pyinfra."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_inventory(groups, user=user, data=data))
    return path
