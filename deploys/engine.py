"""The server software: the same daemon under two names, and where Debian keeps each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Engine:
    """Names and paths of one engine as Debian packages it.

    ``name`` is both the engine's name and its system user; ``oldest`` the first version with everything we set.
    """

    name: Literal["redis", "valkey"]
    oldest: str

    @property
    def package(self) -> str:
        return f"{self.name}-server"

    @property
    def unit(self) -> str:
        return f"{self.name}-server.service"

    @property
    def user(self) -> str:
        return self.name

    @property
    def server(self) -> str:
        return f"/usr/bin/{self.name}-server"

    @property
    def cli(self) -> str:
        return f"/usr/bin/{self.name}-cli"

    @property
    def folder(self) -> str:
        return f"/etc/{self.name}"

    @property
    def config(self) -> str:
        return f"{self.folder}/{self.name}.conf"

    @property
    def acl_file(self) -> str:
        return f"{self.folder}/users.acl"

    @property
    def tls_folder(self) -> str:
        return f"{self.folder}/tls"

    @property
    def data_folder(self) -> str:
        return f"/var/lib/{self.name}"

    @property
    def log_file(self) -> str:
        return f"/var/log/{self.name}/{self.package}.log"

    @property
    def pid_file(self) -> str:
        return f"/run/{self.name}/{self.package}.pid"

    @property
    def drop_in(self) -> str:
        return f"/etc/systemd/system/{self.unit}.d/redkeep.conf"


ENGINES = {"redis": Engine("redis", "7.0"), "valkey": Engine("valkey", "7.2")}
