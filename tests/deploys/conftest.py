"""Hosts of the lab, bare or deployed to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploys.runner import Deployment, Run
from tests.lab.hosts import Spec
from tests.lab.inventory import write_inventory
from tests.lab.lab import Lab

# What each deployment is: its hosts, their groups, and the knobs that differ from the defaults; `own` are one host's alone.
KINDS: dict[str, dict[str, object]] = {
    # Redis 7.0, and an app on another host with another release of Debian and a namespace of its own: allow-list, SANs, two Pythons.
    "redis70": {
        "hosts": [Spec("redis70"), Spec("app13", "trixie")],
        "groups": {"redis": ["redis70"], "app": ["redis70", "app13"]},
        "user": "root",
        "knobs": {},
        "own": {"app13": {"cache_namespace": "tenant"}},
    },
    # Redis 8.0, by a user with sudo.
    "redis80": {
        "hosts": [Spec("redis80", "trixie")],
        "groups": {"redis": ["redis80"], "app": ["redis80"]},
        "user": "operator",
        "knobs": {},
    },
    # Valkey 8.1, with apps that hear of changes, and the API.
    "valkey81": {
        "hosts": [Spec("valkey81", "trixie")],
        "groups": {"redis": ["valkey81"], "app": ["valkey81"]},
        "user": "root",
        "knobs": {"redis_engine": "valkey", "cache_tracking": True, "api_enabled": True},
    },
}


FILES = "find /etc /opt /usr/local /var/lib -newer /proc/1 -type f | sort | xargs -r sha256sum | sha256sum"


def inventory_for(lab: Lab, kind: str, folder: Path, **knobs: object) -> Deployment:
    """An inventory file for hosts that are there already."""
    plan = KINDS[kind]
    data = {"package_source": "wheelhouse"} | plan["knobs"] | knobs  # type: ignore[operator]
    groups = {group: [lab[name] for name in names] for group, names in plan["groups"].items()}  # type: ignore[attr-defined]
    names = {name for members in plan["groups"].values() for name in members}  # type: ignore[attr-defined]
    own: dict[str, dict[str, object]] = plan.get("own", {})  # type: ignore[assignment]
    path = write_inventory(
        folder / f"{kind}.py", groups, user=str(plan["user"]), data={name: data | own.get(name, {}) for name in names}
    )
    return Deployment(path, folder / "secrets")


@dataclass(frozen=True)
class Rehearsal:
    """A dry run on bare hosts, and what it left behind: the Redis host's files before and after, secrets."""

    run: Run
    before: str
    after: str
    secrets: bool


@pytest.fixture(scope="session")
def rehearsals() -> dict[str, Rehearsal]:
    """The dry run of each kind that was deployed."""
    return {}


@pytest.fixture(scope="session")
def deployed(lab: Lab, tmp_path_factory: pytest.TempPathFactory, rehearsals: dict[str, Rehearsal]) -> Callable[[str], Deployment]:
    """A deployment of a kind, made once a session on bare hosts after a dry run; tests leave it as they found it."""
    known: dict[str, Deployment] = {}

    def give(kind: str) -> Deployment:
        if kind not in known:
            plan = KINDS[kind]
            lab.ensure(plan["hosts"])  # type: ignore[arg-type]
            deployment = inventory_for(lab, kind, tmp_path_factory.mktemp(kind))
            server = lab[plan["groups"]["redis"][0]]  # type: ignore[index]
            before = server.check(FILES)
            run = deployment.run("secure_redis", "--dry", yes=False)
            rehearsals[kind] = Rehearsal(run, before, server.check(FILES), deployment.secrets.exists())
            deployment.run().ok()
            known[kind] = deployment
        return known[kind]

    return give


@pytest.fixture(scope="session")
def single(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Deployment]:
    """Make one bare host of its own and an inventory for it, without deploying; ``data`` is the host's in the inventory."""

    def make(
        name: str,
        suite: str = "bookworm",
        *,
        user: str = "root",
        init: bool = True,
        groups: tuple[str, ...] = ("redis", "app"),
        secrets: Path | None = None,
        **data: object,
    ) -> Deployment:
        lab.ensure([Spec(name, suite, init)])
        folder = tmp_path_factory.mktemp(name)
        path = write_inventory(
            folder / f"{name}.py",
            {group: [lab[name]] for group in groups},
            user=user,
            data={name: {"package_source": "wheelhouse"} | data},
        )
        return Deployment(path, secrets or folder / "secrets")

    return make
