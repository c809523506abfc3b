"""ansible-core at the work of the deploy: the files that a deployed host has, as variables of the playbook beside."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deploys import release
from tests.deploys.runner import ROOT
from tests.lab.hosts import Host

FOLDER = ROOT / "tests" / "performance" / "ansible"
PROGRAM = ROOT / "build" / "ansible" / "bin" / "ansible-playbook"
UNPACKED = "/opt/redkeep/.unpacked"

# Run on a deployed host: every file and folder of ours, with its content, and the links to the package.
HARVEST = """
import base64, grp, json, os, pwd, subprocess
ours = subprocess.run("grep -rlI 'anaged by redkeep' /etc /usr/local/sbin; find /etc/redkeep /etc/redis -type f",
                      shell=True, capture_output=True, text=True).stdout.split()
folders = subprocess.run("find /etc/redkeep /etc/redis /etc/systemd/system/redis-server.service.d /var/lib/redis -maxdepth 2 -type d",
                         shell=True, capture_output=True, text=True).stdout.split()
def about(path):
    state = os.stat(path)
    return dict(path=path, owner=pwd.getpwuid(state.st_uid).pw_name, group=grp.getgrgid(state.st_gid).gr_name,
                mode=format(state.st_mode & 0o7777, "04o"))
links = [dict(path=path, target=os.readlink(path)) for path in ("/opt/redkeep/current", "/usr/local/bin/redkeep")]
print(json.dumps(dict(
    files=[about(path) | dict(content=base64.b64encode(open(path, "rb").read()).decode()) for path in sorted(set(ours))],
    folders=[about(path) for path in ["/opt/redkeep", "/opt/redkeep/releases", *sorted(folders)]], links=links)))
"""


class Played(NamedTuple):
    """One finished run: what changed on all hosts together, all output, wall seconds."""

    changed: int
    output: str
    seconds: float


class Playbook:
    """The playbook for some deployed hosts, with a folder of its own."""

    def __init__(self, hosts: Sequence[Host], folder: Path) -> None:
        """Reads what the hosts have now; they may be reset afterwards."""
        self._folder = folder
        self._runs = 0
        variables = {host.name: self._variables(host) for host in hosts}
        access = hosts[0].access
        common = f"-F {access.ssh_config}"
        inventory = {
            "all": {"hosts": {h.name: {"ansible_user": "root", "ansible_ssh_common_args": common, **variables[h.name]} for h in hosts}}
        }
        (folder / "inventory.json").write_text(json.dumps(inventory))

    def _variables(self, host: Host) -> dict[str, Any]:
        found = json.loads(host.check("python3 -", stdin=HARVEST.encode()))
        own = self._folder / host.name
        own.mkdir(mode=0o700)
        lists: dict[str, list[dict[str, str]]] = {"server_files": [], "unit_files": [], "other_files": []}
        for number, file in enumerate(found["files"]):
            (own / str(number)).write_bytes(base64.b64decode(file.pop("content")))
            path = file["path"]
            kind = "unit_files" if "/systemd/" in path else "server_files" if path.startswith("/etc/redis/") else "other_files"
            lists[kind].append({**file, "src": str(own / str(number))})
        python, architecture = host.check("python3 -c 'import platform; print(platform.python_version())'; dpkg --print-architecture").split()
        archive = own / "release.tar.gz"
        archive.write_bytes(release.archive(python, architecture, "wheelhouse"))
        target = next(link["target"] for link in found["links"] if link["path"].endswith("current"))
        folders = [*found["folders"], {"path": UNPACKED, "owner": "root", "group": "root", "mode": "0755"}]
        return {
            **lists, "folders": folders, "links": found["links"],
            "release": {"archive": str(archive), "folder": target, "unpacked": UNPACKED},
        }  # fmt: skip

    def forget_connections(self) -> None:
        """After hosts were reset: ssh keeps connections open for a minute, and these lead nowhere."""
        self._runs += 1

    def run(self) -> Played:
        """Play it to its end. Raises AssertionError with the output when a task fails."""
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(FOLDER / "ansible.cfg"), "ANSIBLE_LOCAL_TEMP": str(self._folder / "temp"), "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._folder / f"c{self._runs}"), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        began = time.monotonic()
        done = subprocess.run(
            [str(PROGRAM), "--inventory", str(self._folder / "inventory.json"), str(FOLDER / "playbook.yml")],
            cwd=FOLDER, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=900, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stdout
        return Played(sum(map(int, re.findall(r"changed=(\d+)", done.stdout))), done.stdout, seconds)
