"""A host's state as text lines that two runs, or two moments, are compared by."""

from __future__ import annotations

import re

from tests.lab.hosts import Host

CLI = "/usr/local/sbin/redkeep-cli"
UNITS = "redis-server.service redkeep-certificates.timer redkeep-certificates.service redkeep-firewall.service"

# What differs between two installations of the same: the machine's id, package managers' backups and caches, byte code,
# and pip's note of the temporary folder a wheel came from.
VOLATILE = re.compile(
    r"^/etc/(machine-id|ld\.so\.cache|mtab|resolv\.conf|hosts|hostname|\.pwd\.lock|(passwd|group|shadow|gshadow|subuid|subgid)-|shadow|gshadow)\|"
    r"|/__pycache__/|/direct_url\.json\||/redkeep-[^/]*\.dist-info/RECORD\||/etc/ssl/certs/|/var/log/"
)

_TREE = r"""find {folders} -xdev \( -type d -o -type l -o ! -type f \) -printf '%p|%y %m %u:%g %l\n' 2>/dev/null
find {folders} -xdev -type f -printf '%p|%y %m %u:%g\n' 2>/dev/null
find {folders} -xdev -type f -print0 2>/dev/null | xargs -0 -r sha256sum | sed 's/^\([0-9a-f]*\)  \(.*\)$/\2|\1/'"""

_SERVER = rf"""dpkg-query -W -f 'package|${{Package}} ${{Version}} ${{db:Status-Status}}\n'
systemctl show -p Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,FragmentPath,DropInPaths {UNITS} | sed 's/^/unit|/'
getent group redkeep redis | sed 's/:[0-9]*:/:/; s/^/group|/'
{CLI} ACL LIST | sort | sed 's/^/acl|/'
{CLI} CONFIG GET '*' | paste - - | sed 's/^/config|/'
nft list table inet redkeep 2>/dev/null | sed 's/^/nft|/'"""

# What an interrupted run could leave behind; none of it may be there when a run has succeeded.
LEFTOVERS = r"""find /etc /opt /usr/local /var/lib/redkeep /run /usr/sbin -xdev \( -name '.redkeep.*' -o -name 'redkeep-try.*' \
    -o -name '.install.*' -o -name '*.new' -o -name 'policy-rc.d' -o -name '*.dpkg-new' -o -name '*.dpkg-tmp' \) 2>/dev/null
find /etc/systemd/system -lname /dev/null -name 'redis*'
find /var/lib/redis -name 'temp-*' 2>/dev/null
find /tmp /var/tmp -mindepth 1 -maxdepth 1 ! -name 'systemd-private-*' ! -name '.*-unix'
dpkg --audit
pgrep -af '127[.]83[.]7[.]'"""


def tree(host: Host, *folders: str) -> list[str]:
    """Every path below folders with its kind, mode, owner and target, and every file's SHA-256; volatile ones left out."""
    lines = host.run(_TREE.format(folders=" ".join(folders))).out.splitlines()
    return sorted(line for line in lines if not VOLATILE.search(line))


def settled(host: Host) -> list[str]:
    """Everything a deploy is responsible for, on disk and in what runs."""
    lines = host.run(_SERVER).out.splitlines()
    assert any(line.startswith("acl|") for line in lines), lines
    # Redis lists a user's commands in no particular order.
    lines = [" ".join(sorted(line.split())) if line.startswith("acl|") else line for line in lines]
    return tree(host, "/etc", "/opt", "/usr/local", "/var/lib/redkeep", "/var/lib/redis") + lines


def differences(before: list[str], after: list[str]) -> list[str]:
    """What is more and what is less than before."""
    return [f"more: {x}" for x in sorted(set(after) - set(before))] + [f"less: {x}" for x in sorted(set(before) - set(after))]


def leftovers(host: Host) -> list[str]:
    """Temporary files, masks and half-installed packages."""
    return [line for line in host.run(LEFTOVERS).out.splitlines() if line.strip()]


def untouched(host: Host) -> list[str]:
    """What a refusal must leave as it was: files, packages and units."""
    packages = host.run("dpkg-query -W -f 'package|${Package} ${Version} ${db:Status-Status}\\n'").out.splitlines()
    units = host.run(
        "systemctl list-unit-files --no-legend 2>/dev/null; getent group; nft list ruleset 2>/dev/null"
    ).out.splitlines()
    return tree(host, "/etc", "/opt", "/usr/local", "/var/lib/redkeep", "/var/lib/redis", "/run/redkeep*") + packages + units
