"""A lab: hosts by name on a network of their own, found again by its label and removed by it."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from types import TracebackType
from typing import Self

from tests.lab import engine, image
from tests.lab.access import Access
from tests.lab.engine import LabError, docker
from tests.lab.hosts import ADDRESS_LABEL, LABEL, SPEC_LABEL, Host, Spec

FIRST_HOST = 10  # .1 is the bridge


class Lab:
    """Context manager around a lab; leaving it destroys the lab.

    `lab_id` is 1-9 lower-case letters or digits, for a bridge's name has 15 at most (Linux IFNAMSIZ). A lab of that id
    already on the engine is taken over with its hosts.
    """

    def __init__(self, lab_id: str | None = None) -> None:
        self.id = lab_id or secrets.token_hex(3)
        if not re.fullmatch("[a-z0-9]{1,9}", self.id):
            raise ValueError(f"lab id {self.id!r}: use 1 to 9 lower-case letters or digits")
        self.network = f"redkeep-lab-{self.id}"
        self.folder = engine.WORK / self.id
        self.access = Access(self.folder)
        self.hosts: dict[str, Host] = {}
        self._addresses: dict[str, str] = {}
        self._images: dict[str, str] = {}
        engine.ensure()
        self._find()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def start(
        self, name: str, suite: str = "bookworm", *, init: bool = True, docker: bool = False, apt_lists: bool = True
    ) -> Host:
        """Start one host and wait until it may be entered."""
        return self.start_all([Spec(name, suite, init, docker, apt_lists)])[0]

    def start_all(self, specs: Iterable[Spec]) -> list[Host]:
        """Start hosts side by side, images built first when absent; wait until each may be entered."""
        wanted = list(specs)
        names = [spec.name for spec in wanted]
        if taken := sorted({name for name in names if name in self.hosts or names.count(name) > 1}):
            raise LabError(f"host names in use: {', '.join(taken)}")
        self._images |= image.build_all(spec.suite for spec in wanted if spec.suite not in self._images)
        self.access.prepare()
        subnet = self._subnet()
        for name in names:
            if name not in self._addresses:
                used = set(self._addresses.values())
                free = (str(subnet[n]) for n in range(FIRST_HOST, subnet.num_addresses - 1))
                self._addresses[name] = next(address for address in free if address not in used)
        added = [Host(spec, lab_id=self.id, address=self._addresses[spec.name], access=self.access) for spec in wanted]
        self.hosts |= {host.name: host for host in added}
        self._write_access()
        with ThreadPoolExecutor(max_workers=max(1, len(added))) as pool:
            list(pool.map(self._boot, added))
        return added

    def fresh(self, *names: str) -> list[Host]:
        """Reset hosts (all without names) to bare: same name, address and host key, nothing else kept."""
        chosen = [self.hosts[name] for name in names or self.hosts]
        with ThreadPoolExecutor(max_workers=max(1, len(chosen))) as pool:
            list(pool.map(self._reset, chosen))
        return chosen

    def ensure(self, specs: Iterable[Spec]) -> None:
        """Make these hosts exist and be bare: those of the same kind are reset, others replaced, missing ones started.

        Hosts of other names are left as they are.
        """
        wanted = list(specs)
        same = [spec.name for spec in wanted if spec.name in self.hosts and self.hosts[spec.name].spec == spec]
        missing = [spec for spec in wanted if spec.name not in same]
        for spec in missing:
            if spec.name in self.hosts:
                self.remove(spec.name)
        if same:
            self.fresh(*same)
        if missing:
            self.start_all(missing)

    def remove(self, name: str) -> None:
        """Remove one host; the next host of that name gets its address and host key again."""
        self.hosts.pop(name).remove()
        self._write_access()

    def destroy(self) -> None:
        """Remove every container, volume and network with this lab's label, and its folder; a second call is idle."""
        remove_labelled(self.id)
        self.hosts.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reset(self, host: Host) -> None:
        host.remove()
        self._boot(host)

    def _boot(self, host: Host) -> None:
        suite = host.spec.suite
        if suite not in self._images:
            self._images[suite] = image.build(suite)
        host.create(self._images[suite], self.network)
        host.wait()

    def _write_access(self) -> None:
        self.access.write((host.name, host.address) for host in self.hosts.values())

    def _subnet(self) -> IPv4Network:
        """The lab network's range; the network is made when absent.

        Fixed addresses need a range given by us: the engine is asked which it would take, then that one is asked for.
        """
        if not docker("network", "ls", "-q", "--filter", f"name=^{self.network}$"):
            label = f"{LABEL}={self.id}"
            for attempt in range(5):
                docker("network", "create", "--label", label, self.network)
                subnet = _range_of(self.network)
                docker("network", "rm", self.network)
                bridge = f"com.docker.network.bridge.name=rklab-{self.id}"
                argv = ["network", "create", "--label", label, "--opt", bridge, "--subnet", str(subnet), self.network]
                result = engine.run([*engine.client(), *argv], check=False)
                if result.code == 0:
                    break
                if attempt == 4:
                    raise LabError(f"no free range for the lab's network: {result.err}")
        return _range_of(self.network)

    def _find(self) -> None:
        """Take over the hosts that carry this lab's label."""
        for container in _labelled(["ps", "--all", "--quiet"], self.id):
            labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", container))
            spec = Spec(**json.loads(labels[SPEC_LABEL]))
            address = labels[ADDRESS_LABEL]
            self.hosts[spec.name] = Host(spec, lab_id=self.id, address=address, access=self.access)
            self._addresses[spec.name] = address


def _range_of(network: str) -> IPv4Network:
    return IPv4Network(docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", network))


def _labelled(listing: list[str], lab_id: str | None) -> list[str]:
    label = LABEL if lab_id is None else f"{LABEL}={lab_id}"
    return docker(*listing, "--filter", f"label={label}").split()


def leftovers(lab_id: str) -> list[str]:
    """Everything on the engine that carries the lab's label: containers, volumes, networks."""
    listings = (["ps", "--all", "--quiet"], ["volume", "ls", "--quiet"], ["network", "ls", "--quiet"])
    return [item for listing in listings for item in _labelled(listing, lab_id)]


def remove_labelled(lab_id: str) -> None:
    """Remove what carries the lab's label and nothing else."""
    if containers := _labelled(["ps", "--all", "--quiet"], lab_id):
        docker("rm", "--force", "--volumes", *containers)
    if volumes := _labelled(["volume", "ls", "--quiet"], lab_id):
        docker("volume", "rm", "--force", *volumes)
    if networks := _labelled(["network", "ls", "--quiet"], lab_id):
        docker("network", "rm", *networks)


def all_ids() -> list[str]:
    """Ids of the labs that have a container on the engine, of whoever made them."""
    listing = docker("ps", "--all", "--filter", f"label={LABEL}", "--format", f'{{{{.Label "{LABEL}"}}}}')
    return sorted(set(listing.split()))
