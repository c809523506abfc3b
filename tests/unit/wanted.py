"""What the tests of deploys/ start from: the defaults of group_data/all.py and values built from them."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from deploys.bundle import Bundle, build
from deploys.credentials import USERS
from deploys.facts.survey import FileState, ServerState, Survey
from deploys.knobs import Knobs
from redkeep.crypto.pki import Authority, Leaf

ROOT = Path(__file__).resolve().parents[2]


@cache
def _defaults() -> dict[str, Any]:
    return {name: value for name, value in runpy.run_path(str(ROOT / "group_data" / "all.py")).items() if name[0] != "_"}


def data(**changes: Any) -> dict[str, Any]:
    """What pyinfra gives a host: all defaults, with changes."""
    return _defaults() | changes


def knobs(**changes: Any) -> Knobs:
    """The defaults, with changes, as the deploy understands them."""
    return Knobs.from_data(data(**changes))


def bundle(*groups: str, name: str = "@local", **changes: Any) -> Bundle:
    """The bundle of the only host of an inventory, in groups redis and app unless said otherwise."""
    return build([(name, frozenset(groups or ("redis", "app")), data(**changes))])[name]


def survey(**parts: Any) -> Survey:
    """A Debian 12 host with systemd, 2 GiB and nothing of ours, with changes; `host` is merged."""
    host = {"id": "debian", "release": "12", "like": "", "memory_kib": "2097152", "systemd": "yes", "container": "no"}
    empty: dict[str, Any] = {
        **{"login": {"uid": "0"}, "addresses": ("127.0.0.1", "::1", "10.0.0.5"), "packages": {}, "files": {}, "units": {}},
        **{"running": False, "kernel": {}, "groups": {}, "users": {}, "authorities": frozenset(), "sockets": ()},
        **{"firewall": "", "server": ServerState()},
    }
    return Survey(**(empty | parts | {"host": host | parts.get("host", {})}))


def there(kind: str = "file") -> FileState:
    """A path that exists."""
    return FileState(kind, "0644", "root", "root")


@cache
def authority() -> Authority:
    """A CA for the whole run of the tests."""
    return Authority.create("redkeep test CA")


@dataclass
class FakeCredentials:
    """Secrets of the right shape that open nothing."""

    trust_bundle: bytes = field(default_factory=lambda: authority().cert_pem)
    encryption_keys: tuple[str, ...] = ("first", "second")
    hashes: dict[str, tuple[str, ...]] = field(default_factory=lambda: {u: (f"{n:02d}" * 32,) for n, u in enumerate(USERS)})

    def password(self, user: str) -> str:
        return f"word-of-{user}"

    def older_api_key(self) -> str:
        return ""

    def api_key(self) -> str:
        return "word-of-api"

    def server(self, host: str, names: Sequence[str]) -> Leaf:
        return authority().issue(list(names), use="server", days=60, common_name=host.lstrip("@"))

    def api_server(self, host: str) -> Leaf:
        return authority().issue(["api"], use="server", days=60, common_name="api-server")

    def client(self, service: str, host: str) -> Leaf:
        return authority().issue([], use="client", days=60, common_name=service)


@dataclass
class FakeSite:
    """A host during a run, as far as concerns read it; `answer` is what commands print."""

    bundle: Bundle
    credentials: FakeCredentials = field(default_factory=FakeCredentials)
    environment: str = "test"
    answer: tuple[bool, list[str], list[str]] = (True, [], [])
    asked: list[str] = field(default_factory=list)
    kept: bool = False
    seen: Survey | None = None

    def survey(self) -> Survey:
        return self.seen or survey()

    def keep_secrets(self) -> None:
        self.kept = True

    def run(self, command: str, *, stdin: str = "") -> tuple[bool, list[str], list[str]]:
        self.asked.append(command)
        return self.answer
