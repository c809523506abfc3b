"""The machine below Redis: its packages, kernel settings and log rotation."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pyinfra.api import deploy

from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.engine import Engine
from deploys.facts.survey import POLICY, POLICY_MARK, Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.site import Site

SYSCTL = "/etc/sysctl.d/90-redkeep.conf"
TMPFILES = "/etc/tmpfiles.d/redkeep.conf"
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
STATE = "/var/lib/redkeep"
MANAGED = f"{STATE}/managed"
PACKAGES = f"{STATE}/packages"
BEFORE = f"{STATE}/packages-before"
_ENGINE_PACKAGES = ("docker.io", "docker-compose", "docker-cli")


def question(site: Site) -> Question:
    engine = site.bundle.engine
    native = (engine.package,) if site.bundle.is_redis else ()
    asked = Question(packages=(*packages_wanted(site), *_ENGINE_PACKAGES, *native), files=(STATE, MANAGED, "/etc/redkeep"))
    if site.bundle.is_redis:
        kernel = tuple(proc_path(name) for name in site.bundle.knobs.kernel_settings)
        asked |= Question(
            files=(SYSCTL, TMPFILES, f"/etc/logrotate.d/{engine.package}", engine.folder),
            kernel=(*kernel, THP),
            units=(engine.unit,),
            process=engine.package,
        )
    return asked


def packages_wanted(site: Site) -> tuple[str, ...]:
    """Debian packages this host needs, by its roles."""
    wanted = ["openssl", "iproute2", "procps"]
    if site.bundle.is_redis:
        engine, exposed = site.bundle.engine, site.bundle.listens_beyond_loopback or site.bundle.in_container
        # In a container runs the server's file that comes with the tools; its log is the container engine's.
        wanted += [f"{engine.name}-tools"] if site.bundle.in_container else [engine.package, "logrotate"]
        if site.bundle.knobs.firewall and exposed:
            wanted.append("nftables")
    if site.bundle.is_app:
        wanted.append("python3-venv")
    if site.bundle.api_in_container:
        wanted.append("ca-certificates")
    return tuple(wanted)


def engine_wanted(site: Site, survey: Survey) -> tuple[str, ...]:
    """The distribution's container engine, where it is needed and the host has none of another origin."""
    if not site.bundle.in_container or (survey.docker.server and _ENGINE_PACKAGES[0] not in survey.packages):
        return ()
    # Debian 12 has the client in the engine's package.
    return _ENGINE_PACKAGES[:2] if survey.host.get("release") == "12" else _ENGINE_PACKAGES


def packages(site: Site, survey: Survey) -> Iterator[Difference]:
    """The server's package is installed under a mask (systemd) or a policy (init script): its stock configuration
    never runs, not even once, and not after a reboot in between either."""
    if not survey.file(MANAGED).kind:
        yield Difference(
            f"folder {STATE} is missing",
            f"install -d -m 0755 {STATE}\n"
            + (stock_stopped(site, survey) if site.bundle.is_redis else "")
            + f"\necho 'This host is managed by redkeep.' > {MANAGED}",
        )
    yield from packages_missing(site, survey)


def packages_missing(site: Site, survey: Survey) -> Iterator[Difference]:
    """What is to be installed, on a host whose server may be in use."""
    yield from policy_left(survey)
    missing = [name for name in (*packages_wanted(site), *engine_wanted(site, survey)) if name not in survey.packages]
    yield from folder_differences([("/etc/redkeep", "root", "root", "0755")], survey)
    if missing:
        yield Difference(f"packages are missing: {' '.join(missing)}", _install(site, survey, missing))


def policy_left(survey: Survey) -> Iterator[Difference]:
    """What a run leaves that was killed while it installed packages: from then on no package starts its service here."""
    if survey.host.get("policy") == "ours":
        yield Difference(f"file {POLICY}, which stops packages from starting their services, is still there", f"rm -f {POLICY}")


def stock_stopped(site: Site, survey: Survey) -> str:
    """Stop an adopted stock service for good; it was found unused by the preflight."""
    engine = site.bundle.engine
    if engine.package not in survey.packages:
        return ""
    if survey.has_systemd:
        return f"systemctl mask --now {engine.unit} >/dev/null 2>&1"
    return init_stop(engine)


def init_stop(engine: Engine) -> str:
    """Shell that stops the server by its init script and makes sure that it is gone.

    The script looks at /proc/PID/exe, which root in a container may not read: it then stops nothing and says nothing.
    """
    alive = f"pgrep -x -r D,R,S -u {engine.user} {engine.package}"
    return f"""service {engine.package} stop >/dev/null 2>&1 || true
{alive} | xargs -r kill 2>/dev/null || true
i=0; while {alive} >/dev/null; do
    [ $i -lt 150 ] || {{ echo "{engine.package} does not stop" >&2; exit 1; }}
    i=$((i+1)); sleep 0.1
done"""


def _install(site: Site, survey: Survey, missing: list[str]) -> str:
    engine = site.bundle.engine
    lines = ["export DEBIAN_FRONTEND=noninteractive"]
    if engine.package in missing:
        if survey.has_systemd:
            lines.append(f"systemctl mask {engine.unit} >/dev/null 2>&1")
        elif survey.host.get("policy") != "yes":
            lines += [
                # A signal ends the script by way of this: nothing is installed without the policy.
                f"trap 'rm -f {POLICY}' EXIT",
                f"printf '#!/bin/sh\\n# {POLICY_MARK}\\nexit 101\\n' > {POLICY}",
                f"chmod 0755 {POLICY}",
            ]
    options = "-q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold"
    install = f"apt-get {options} install --no-install-recommends {shlex.join(missing)}"
    lines += [
        # Noted first: a removal must know of them even if this is interrupted.
        f"[ -e {BEFORE} ] || {{ dpkg-query -W -f '${{Package}}\\n' | LC_ALL=C sort > {BEFORE}.new; mv {BEFORE}.new {BEFORE}; }}",
        f"{{ cat {PACKAGES} 2>/dev/null || true; printf '%s\\n' {shlex.join(missing)}; }} | LC_ALL=C sort -u > {PACKAGES}.new",
        f"mv {PACKAGES}.new {PACKAGES}",
        # Only apt-get waits for another one to end; dpkg itself would fail at once.
        f"{install} >/dev/null 2>&1 || {{ dpkg --configure -a --force-confold >/dev/null 2>&1 || true",
        f"apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null; {install} >/dev/null; }}",
        # The package's own configuration, which it lays beside one that is there: of a container, that is.
        *([f"rm -f {engine.config}.dpkg-dist"] if engine.package in missing else []),
    ]
    return "\n".join(lines)


def proc_path(name: str) -> str:
    return "/proc/sys/" + name.replace(".", "/")


def kernel_files(site: Site, survey: Survey) -> Iterator[Difference]:
    knobs = site.bundle.knobs
    yield from file_differences(
        [
            ManagedFile(SYSCTL, render("etc/sysctl.d/90-redkeep.conf", settings=dict(knobs.kernel_settings))),
            ManagedFile(TMPFILES, render("etc/tmpfiles.d/redkeep.conf", transparent_hugepages=knobs.transparent_hugepages)),
        ],
        survey,
    )


def kernel_values(site: Site, survey: Survey) -> Iterator[Difference]:
    """Live values. A container shares its host's kernel: there the posture reports them and nothing is attempted."""
    if survey.in_container:
        return
    for name, wanted in site.bundle.knobs.kernel_settings.items():
        found = survey.kernel.get(proc_path(name), "")
        if found != str(wanted):
            yield Difference(f"kernel setting {name} is {found or 'unknown'}, wanted {wanted}", f"sysctl -q -w {name}={wanted}")
    pages = survey.kernel.get(THP, "")
    wanted_pages = site.bundle.knobs.transparent_hugepages
    if pages and f"[{wanted_pages}]" not in pages:
        yield Difference(f"transparent huge pages are {pages}, wanted {wanted_pages}", f"echo {wanted_pages} > {THP}")


def log_rotation(site: Site, survey: Survey) -> Iterator[Difference]:
    content = render("etc/logrotate.d/redis-server", engine=site.bundle.engine, weeks=site.bundle.knobs.redis_log_weeks)
    yield from file_differences([ManagedFile(f"/etc/logrotate.d/{site.bundle.engine.package}", content)], survey)


@deploy("Machine")
def machine(site: Site) -> None:
    converge(site, packages, name="Install the packages")
    if site.bundle.is_redis:
        converge(site, kernel_files, name="Write the kernel settings")
        converge(site, kernel_values, name="Apply the kernel settings")
    if site.bundle.is_redis and not site.bundle.in_container:
        converge(site, log_rotation, name="Rotate the server's log")
