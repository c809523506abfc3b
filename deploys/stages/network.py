"""The firewall: who may reach Redis' port."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Iterator
from typing import Any

from pyinfra.api import deploy

from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.facts.survey import FIREWALL_NOTE, Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.site import Site
from deploys.stack import API_PORT, BRIDGE, DASHBOARD_PORT, EDGE_BRIDGE, plan

RULES = "/etc/redkeep/firewall.nft"
LOADER = "/usr/local/sbin/redkeep-firewall"
UNIT = "redkeep-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
DROP_IN = "/etc/systemd/system/nftables.service.d/redkeep.conf"
# Shell that says why the unit failed.
WHY = f"echo '{UNIT} failed, so nothing that it protects is started; its log ends with:' >&2; journalctl -q -n 3 -o cat -u {UNIT} >&2"


def wanted(site: Site) -> bool:
    exposed = site.bundle.listens_beyond_loopback or site.bundle.in_container
    return site.bundle.is_redis and site.bundle.knobs.firewall and exposed


def question(site: Site) -> Question:
    if not site.bundle.is_redis:
        return Question()
    return Question(files=(RULES, LOADER, UNIT_FILE, posixpath.dirname(DROP_IN), DROP_IN), units=(UNIT,), firewall=True)


def firewall_files(site: Site, survey: Survey) -> Iterator[Difference]:
    if not wanted(site):
        if survey.file(RULES).kind:
            yield Difference("a firewall exists but is not wanted", remove_script(survey))
        return
    reload_unit = "systemctl daemon-reload" if survey.has_systemd else ""
    yield from file_differences(
        [ManagedFile(RULES, rules(site, survey), mode="0640")], survey, after=f"[ ! -x {LOADER} ] || {LOADER}"
    )
    loader = render("usr/local/sbin/redkeep-firewall", note=FIREWALL_NOTE, **closed(site, survey))
    yield from file_differences([ManagedFile(LOADER, loader, mode="0750")], survey)
    before = "docker.service" if site.bundle.in_container else site.bundle.engine.unit
    unit = render("etc/systemd/system/redkeep-firewall.service", before=before, note=FIREWALL_NOTE)
    if survey.has_systemd:
        yield from file_differences([ManagedFile(UNIT_FILE, unit)], survey, after=reload_unit)
        again = ManagedFile(DROP_IN, render(DROP_IN[1:], loader=LOADER))
        yield from folder_differences([(posixpath.dirname(DROP_IN), "root", "root", "0755")], survey)
        yield from file_differences([again], survey, after=reload_unit)


def closed(site: Site, survey: Survey) -> dict[str, Any]:
    """What nobody reaches while the rules cannot be loaded."""
    subnets: list[str] = []
    if site.bundle.in_container:
        networks = plan(site.bundle, survey.docker)
        subnets = [str(networks.internal), *([str(networks.edge)] if site.bundle.api_in_container else ())]
    return {"port": site.bundle.knobs.redis_tls_port, "subnets": subnets}


def rules(site: Site, survey: Survey) -> bytes:
    if site.bundle.in_container:
        networks = plan(site.bundle, survey.docker)
        users = site.bundle.knobs.app_users if site.bundle.is_app else ()
        reachable = [ipaddress.ip_network(address) for address in site.bundle.knobs.api_reachable]
        return render(
            "etc/redkeep/firewall-container.nft",
            address=networks.redis,
            subnet=str(networks.internal),
            bridge=BRIDGE,
            port=site.bundle.knobs.redis_tls_port,
            uids=sorted({0, *(survey.users[user] for user in users if user in survey.users)}),
            edge=networks if site.bundle.api_in_container else None,
            edge_bridge=EDGE_BRIDGE,
            api_port=API_PORT,
            dashboard_port=DASHBOARD_PORT if site.bundle.has_dashboard else 0,
            dashboard_published=site.bundle.knobs.dashboard_port,
            reachable=[_text(network) for network in reachable],
        )
    clients = [ipaddress.ip_network(address) for address in site.bundle.client_addresses]
    return render(
        "etc/redkeep/firewall.nft",
        port=site.bundle.knobs.redis_tls_port,
        clients4=[_text(network) for network in clients if network.version == 4],
        clients6=[_text(network) for network in clients if network.version == 6],
    )


def _text(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def firewall_live(site: Site, survey: Survey) -> Iterator[Difference]:
    """The kernel's table is the one we loaded: its listing's digest is compared with the one noted at loading."""
    if not wanted(site):
        return
    live, _, noted = survey.firewall.partition(" ")
    if not noted or live != noted:
        yield Difference("the firewall's rules in the kernel are not those of redkeep", LOADER)
    unit = survey.units.get(UNIT)
    if survey.has_systemd and (unit is None or unit.enabled != "enabled" or unit.active != "active"):
        failed = unit is not None and unit.active == "failed"
        what = f"failed: {site.bundle.engine.name} is not started without it" if failed else "is not enabled and active"
        yield Difference(f"unit {UNIT} {what}", f"systemctl enable --now {UNIT} >/dev/null 2>&1 || {{ {WHY}; exit 1; }}")


def remove_script(survey: Survey) -> str:
    """Shell that takes the firewall away again."""
    # Whatever still requires the unit goes on: it is taken away where it is not wanted, or after what it protects.
    stop = f"systemctl stop --job-mode=ignore-dependencies {UNIT} >/dev/null 2>&1 || true"
    lines = [f"systemctl disable {UNIT} >/dev/null 2>&1 || true", stop] if survey.has_systemd else []
    lines += [f"nft delete table {family} redkeep 2>/dev/null || true" for family in ("inet", "bridge")]
    lines.append(f"rm -f {RULES} {LOADER} {UNIT_FILE} {DROP_IN} {FIREWALL_NOTE} {FIREWALL_NOTE}.new")
    lines.append(f"rmdir {posixpath.dirname(DROP_IN)} 2>/dev/null || true")
    return "\n".join(lines + (["systemctl daemon-reload"] if survey.has_systemd else []))


@deploy("Network")
def network(site: Site) -> None:
    converge(site, firewall_files, name="Write the allow-list of hosts")
    converge(site, firewall_live, name="Load the allow-list of hosts")
