"""Who may enter the hosts: keys made once a lab, planted before the first boot, so that nothing is trusted on sight."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.lab import engine
from tests.lab.image import OPERATOR_GROUP_ID, OPERATOR_ID

CA_ON_HOST = "/usr/local/share/redkeep-lab/ca.pem"
CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")


def _keypair(path: Path, comment: str) -> Path:
    """An ed25519 key pair at `path`, made when absent."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path


@dataclass(frozen=True)
class Access:
    """The lab's user key, each host's own host key, known_hosts and ssh_config, all in one 0700 folder."""

    folder: Path

    @property
    def key(self) -> Path:
        """Private key that root and operator accept."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The hosts' public keys by name and address, complete: strict checking works."""
        return self.folder / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """`ssh -F FILE NAME` enters a host as root; `operator@NAME` as the operator."""
        return self.folder / "ssh_config"

    def known_host(self, name: str) -> Path:
        """known_hosts of one host alone: pyinfra reads such a file once a process, and a lab's hosts come and go."""
        return self.folder / "known-hosts" / name

    def prepare(self) -> None:
        """Make the folder and the user key when absent."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _keypair(self.key, "redkeep-lab")

    def host_key(self, name: str) -> Path:
        """Host key of the host `name`: the same before and after a reset, so known_hosts stays true."""
        return _keypair(self.folder / "host-keys" / name, name)

    def seed(self, name: str) -> bytes:
        """Tar archive for a new host's root: its host key, the accepted user key and, if set, the machine's CAs.

        When SSL_CERT_FILE is set here, its file goes along and login sessions on the host (/etc/environment) name it.
        """
        mine = self.key.with_suffix(".pub").read_bytes()
        host = self.host_key(name)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            _add(tar, "etc/ssh/ssh_host_ed25519_key", host.read_bytes(), 0o600)
            _add(tar, "etc/ssh/ssh_host_ed25519_key.pub", host.with_suffix(".pub").read_bytes(), 0o644)
            for home, owner in (("root", 0), ("home/operator", OPERATOR_ID)):
                _add(tar, f"{home}/.ssh", None, 0o700, owner)
                _add(tar, f"{home}/.ssh/authorized_keys", mine, 0o600, owner)
            bundle = os.environ.get("SSL_CERT_FILE")
            if bundle and Path(bundle).is_file():
                _add(tar, CA_ON_HOST.lstrip("/"), Path(bundle).read_bytes(), 0o644)
                names = "".join(f"{variable}={CA_ON_HOST}\n" for variable in CA_VARIABLES)
                _add(tar, "etc/environment", names.encode(), 0o644)
        return buffer.getvalue()

    def write(self, addresses: Iterable[tuple[str, str]]) -> None:
        """Write known_hosts and ssh_config for these names and addresses."""
        known, config = [], []
        self.known_host("").mkdir(exist_ok=True, mode=0o700)
        for name, address in sorted(addresses):
            kind, public = self.host_key(name).with_suffix(".pub").read_text().split()[:2]
            known.append(f"{name},{address} {kind} {public}\n")
            self.known_host(name).write_text(known[-1])
            config.append(f"Host {name}\n  HostName {address}\n")
        config.append(
            "Host *\n  User root\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n  GlobalKnownHostsFile /dev/null\n"
            f"  LogLevel ERROR\n  IdentityFile {self.key}\n  UserKnownHostsFile {self.known_hosts}\n"
        )
        for path, lines in ((self.known_hosts, known), (self.ssh_config, config)):
            fresh = path.with_suffix(".new")
            fresh.write_text("".join(lines))
            fresh.replace(path)


def _add(tar: tarfile.TarFile, name: str, content: bytes | None, mode: int, owner: int = 0) -> None:
    """Put a file, or with `content=None` a folder, into the archive; its group is the owner's primary one."""
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid = mode, owner, OPERATOR_GROUP_ID if owner else 0
    if content is None:
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    else:
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
