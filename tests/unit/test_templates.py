"""Every file as a host gets it, judged by the program that reads it."""

from __future__ import annotations

import base64
import configparser
import os
import re
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from deploys.bundle import Bundle, build
from deploys.rendering import ROOT, render
from deploys.stages import api, app_containers, application, containers, image, machine, network, server, wanted, watch
from deploys.stages.wanted import CLI, users
from redkeep.environment import read_env_file
from tests.unit.needs import needs
from tests.unit.wanted import FakeSite, authority, bundle, data, survey

CONCERNS: tuple[Callable[..., Any], ...] = (
    *(machine.kernel_files, machine.log_rotation, server.operator_access, server.configuration, server.drop_in),
    *(network.firewall_files, watch.watch_files, application.environment),
)

# What a container adds; the files it does not need are written all the same, to be looked at.
BOXED: tuple[Callable[..., Any], ...] = (server.health, containers.stack_files, image.image)

# Secrets, certificates and the ACL file, where Redis takes no comment.
BARE = re.compile(r".*(\.crt|\.key|/(api|dashboard)/key|/(monitor-)?password|/users\.acl)")


def _bundles() -> dict[str, Bundle]:
    """This machine alone, and a Valkey that other hosts use, with every knob that changes a file."""
    other = {
        **{"redis_engine": "valkey", "tls_minimum_version": "1.2", "redis_persistence": "aof", "cache_namespace": "tenant"},
        **{"allowed_clients": ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.5", "2001:db8::/32", "::1"], "app_group": "web", "api_enabled": True},
    }
    alone = build([("@local", frozenset({"redis", "app"}), data())])["@local"]
    both = [("10.0.0.5", frozenset({"redis", "app"}), data(**other)), ("10.0.0.9", frozenset({"app"}), data(**other))]
    boxed = build([("@local", frozenset({"redis", "app"}), data(redis_runtime="docker"))])["@local"]
    app = {"api_enabled": True, "dashboard_enabled": True, "api_reachable": ["10.9.0.0/16", "10.8.0.1"], "app_users": ["daemon"]}
    crowd = build([("@local", frozenset({"redis", "app"}), data(redis_runtime="docker", **app))])["@local"]
    return {"alone": alone, "others": build(both)["10.0.0.5"], "boxed": boxed, "crowd": crowd}


@cache
def files(kind: str) -> dict[str, bytes]:
    """All files of one host by path."""
    site = FakeSite(_bundles()[kind])
    found: dict[str, bytes] = {}
    more = (*(BOXED if site.bundle.in_container else ()), *((api.files,) if site.bundle.api_in_unit else ()))
    more = (*more, *((app_containers.files,) if site.bundle.api_in_container else ()))
    for concern in (*CONCERNS, *more):
        for difference in concern(site, survey(addresses=("127.0.0.1", "::1", "10.0.0.5"), users={"daemon": 1})):
            if difference.what.startswith("file "):
                found[difference.what.split(" ")[1]] = base64.b64decode(difference.stdin)
            elif difference.what.startswith("image "):
                found["/Dockerfile"] = base64.b64decode(difference.stdin)
    return found


def text(kind: str, path: str) -> str:
    return files(kind)[path].decode()


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=os.environ | environment)


KINDS = ("alone", "others", "boxed", "crowd")
HOSTED = [(kind, path) for kind in KINDS for path in files(kind)]


def test_every_template_reaches_a_host() -> None:
    """No template is left over: each is the source of a file that some host gets."""
    headers = {re.search(rb"from (templates/\S+\.j2)", content) for kind in KINDS for content in files(kind).values()}
    named = {found[1].decode() for found in headers if found}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "templates").rglob("*.j2")} == named


@pytest.mark.parametrize("path", sorted((ROOT / "templates").rglob("*.j2")), ids=lambda p: p.relative_to(ROOT / "templates").as_posix())
def test_a_template_says_where_it_comes_from(path: Path) -> None:
    """The first line (after #!) names the manager and the template itself."""
    lines = path.read_text().splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert re.fullmatch(rf"# Managed by redkeep from {re.escape(path.relative_to(ROOT).as_posix())}: do not edit.*", first)


@pytest.mark.parametrize("path", sorted((ROOT / "templates").rglob("*.j2")), ids=lambda p: p.relative_to(ROOT / "templates").as_posix())
def test_a_name_that_is_not_given_is_an_error(path: Path) -> None:
    """No template with a value renders an empty word in its place."""
    if "{{" in path.read_text():
        with pytest.raises(UndefinedError):
            render(path.relative_to(ROOT / "templates").as_posix().removesuffix(".j2"))


@pytest.mark.parametrize(("kind", "path"), HOSTED)
def test_a_file_is_clean(kind: str, path: str) -> None:
    """It begins with the notice, ends with one line end, and has no trailing blanks nor leftovers of the template."""
    if BARE.fullmatch(path):
        return
    content = text(kind, path)
    assert re.match(r"(#!/bin/sh\n)?# Managed by redkeep", content)
    assert re.search(r"[^\n]\n\Z", content)
    assert [] == [line for line in content.splitlines() if line != line.rstrip() or re.search(r"{{|{%|Undefined|None|MASKED", line)]
    assert "\n\n\n" not in content


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, path in HOSTED if path.startswith("/usr/local/sbin/")])
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_script_is_valid_shell(kind: str, path: str, shell: str) -> None:
    """It parses and stops at the first unset name."""
    done = subprocess.run([shell, "-n"], input=text(kind, path), capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert re.search(r"^set -e?u$", text(kind, path), re.MULTILINE)


def test_the_firewall_is_made_only_where_it_is_needed() -> None:
    """A Redis on loopback has none."""
    assert [False, True, True, True] == ["/etc/redkeep/firewall.nft" in files(kind) for kind in KINDS]


@needs("nft")
@pytest.mark.parametrize("kind", ["others", "boxed", "crowd"])
def test_nftables_takes_the_rules(kind: str, tmp_path: Path) -> None:
    """nft checks them in a network namespace of its own; overlapping networks and both families are in them."""
    path = tmp_path / "firewall.nft"
    path.write_bytes(files(kind)["/etc/redkeep/firewall.nft"])
    alone = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-rn")
    done = run(*alone, "/usr/sbin/nft", "-c", "-f", str(path))
    assert (0, "") == (done.returncode, done.stderr)


def test_the_rules_let_in_the_listed_and_drop_the_rest() -> None:
    """Other ports are left alone, loopback is let in, then each family's list, and the last word is drop."""
    chain = [line.strip() for line in text("others", "/etc/redkeep/firewall.nft").splitlines() if line.startswith("        ")]
    assert [
        "type filter hook input priority filter - 10; policy accept;",
        "tcp dport != 6380 return",
        'iif "lo" accept',
        "ip saddr { 10.0.0.0/8, 10.0.0.9, 10.1.0.0/16, 10.1.0.5 } accept",
        "ip6 saddr { 2001:db8::/32, ::1 } accept",
        "counter drop",
    ] == chain


@needs("nft")
@pytest.mark.parametrize(("kind", "shut"), [("others", "6380"), ("boxed", "10.213.0.0/28"), ("crowd", "10.213.0.")])
def test_rules_that_are_refused_leave_nothing_open(kind: str, shut: str, tmp_path: Path) -> None:
    """Where no table is, the loader fails and lets nobody through; one that is there stays as it is; good rules replace either."""
    good, rules, loader = (tmp_path / name for name in ("good", "rules", "loader"))
    good.write_bytes(files(kind)["/etc/redkeep/firewall.nft"])
    loader.write_text(text(kind, network.LOADER).replace("/etc/redkeep/firewall.nft", str(rules)))
    script = f"""mount -t tmpfs none /run; load() {{ sh {loader} 2>/dev/null; echo "ended with $?"; }}
list() {{ nft list table inet redkeep; ls /run; }}
echo 'no rule' > {rules}; load; list; echo --; cp {good} {rules}; load; list; echo --; echo 'no rule' > {rules}; load; list"""
    alone = ("unshare", "-nm") if os.geteuid() == 0 else ("unshare", "-rnm")
    done = run(*alone, "sh", "-c", script)
    closed, loaded, kept = done.stdout.split("--\n")
    assert ["1", "0", "1"] == re.findall(r"ended with (\d+)", done.stdout), done.stderr
    assert [True, False, False] == ["closed" in part for part in (closed, loaded, kept)]
    assert shut in closed
    assert " accept\n" not in closed
    assert loaded.partition("\n")[2] == kept.partition("\n")[2]
    assert [False, True] == ["redkeep-firewall.sha256" in part for part in (closed, loaded)]


def test_accounts_stand_in_the_rules_by_number() -> None:
    """nft refuses a whole file for one name that nobody knows: of an account that was deleted, or of a directory not there at boot."""
    found = {kind: re.findall(r"meta skuid (.*) accept", text(kind, "/etc/redkeep/firewall.nft")) for kind in ("boxed", "crowd")}
    assert {"boxed": ["{ 0 }"], "crowd": ["{ 0, 1 }"] * 2} == found


@pytest.mark.parametrize(
    ("kind", "unit"),
    [("others", "valkey-server.service.d/redkeep.conf"), ("boxed", "redkeep-stack.service"), ("crowd", "redkeep-stack.service")],
)
def test_no_allow_list_no_server(kind: str, unit: str) -> None:
    """What the allow-list protects requires it and comes after it: when it cannot be loaded, systemd does not start the server."""
    lines = text(kind, f"/etc/systemd/system/{unit}").splitlines()
    assert {"Requires=redkeep-firewall.service", "After=redkeep-firewall.service"} <= set(lines)


def test_a_server_without_an_allow_list_requires_none() -> None:
    """On loopback, and with the knob off, the unit does not exist."""
    assert "redkeep-firewall" not in text("alone", "/etc/systemd/system/redis-server.service.d/redkeep.conf")
    knobs = data(allowed_clients=["10.0.0.0/8"], firewall=False)
    off = FakeSite(build([("10.0.0.5", frozenset({"redis", "app"}), knobs)])["10.0.0.5"])
    (unit,) = (each for each in server.drop_in(off, survey()) if each.what.startswith("file "))  # type: ignore[arg-type]
    assert b"redkeep-firewall" not in base64.b64decode(unit.stdin)


@pytest.mark.parametrize("kind", KINDS)
def test_every_certificate_is_watched(kind: str) -> None:
    """The daily check looks at each certificate that this host was given, whoever shows it."""
    script = text(kind, watch.SCRIPT)
    patterns = re.findall(r"^for file in (.*); do$", script, re.MULTILINE)[0].split()
    given = [path for path in files(kind) if path.endswith(".crt")]
    assert {"alone": 2, "others": 3, "boxed": 4, "crowd": 8}[kind] <= len(given)
    assert [] == [path for path in given if not any(fnmatch(path, pattern) for pattern in patterns)]


@needs("systemd-analyze")
@pytest.mark.parametrize("kind", KINDS)
def test_systemd_takes_the_units(kind: str, tmp_path: Path) -> None:
    """systemd-analyze verify has no complaint about the units nor about the sandbox on top of a service."""
    for path, content in files(kind).items():
        if path.startswith("/etc/systemd/system/"):
            there = tmp_path / path.removeprefix("/etc/systemd/system/")
            there.parent.mkdir(exist_ok=True)
            there.write_bytes(re.sub(rb"/usr/(local/)?sbin/\S+|/opt/redkeep/current/bin/redkeep", b"/bin/true", content))
    unit = _bundles()[kind].engine.unit
    for other in (unit, "docker.service"):  # of packages that need not be here
        (tmp_path / other).write_text("[Service]\nExecStart=/bin/true\n")
    units = [str(path) for path in tmp_path.iterdir() if path.is_file()]
    done = run("systemd-analyze", "verify", "--man=no", *units, SYSTEMD_UNIT_PATH=f"{tmp_path}:/lib/systemd/system")
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "redkeep" in line or unit in line]
    assert ({"alone": 2, "others": 4, "boxed": 4, "crowd": 4}[kind], []) == (len(units) - 2, complaints)


def test_the_sandbox_lets_in_whom_the_firewall_lets_in() -> None:
    """IPAddressAllow= names loopback, the host itself and the same clients; everyone else is denied."""
    lines = text("others", "/etc/systemd/system/valkey-server.service.d/redkeep.conf").splitlines()
    assert "IPAddressDeny=any" in lines
    allowed = next(line for line in lines if line.startswith("IPAddressAllow=")).removeprefix("IPAddressAllow=").split()
    assert {"localhost", "10.0.0.5", "10.0.0.9", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.5", "2001:db8::/32", "::1"} == set(allowed)


def test_the_sandbox_of_a_server_on_every_address_outlives_the_host_s_day() -> None:
    """A container network, an address of IPv6 for the day, another order: the text stays, and with it the running server. Addresses that
    the certificate names stay allowed."""
    named = {"redis_bind": ["0.0.0.0", "::"], "redis_address": "10.0.0.5", "tls_names": ["2001:db8::5"]}
    site: Any = FakeSite(bundle("redis", **named))
    own = ("127.0.0.1", "::1", "10.0.0.5", "2001:db8::5")
    before = wanted.drop_in_text(site, survey(addresses=own))
    later = (*reversed(own), "172.18.0.1", "2001:db8::a1b2:c3d4", "fe80::1")
    assert before == wanted.drop_in_text(site, survey(addresses=later))
    assert b"IPAddressAllow=localhost 10.0.0.5 2001:db8::5\n" in before


def test_the_sandbox_s_mark_changes_with_its_text() -> None:
    """Each text has a digest of its own, so that a deploy sees which one systemd has loaded."""
    marks = [re.findall(r"REDKEEP_SANDBOX=([0-9a-f]{16})", text(kind, path)) for kind, path in HOSTED if path.endswith("d/redkeep.conf")]
    sandboxes = [found for found in marks if found]
    assert [1, 1] == [len(found) for found in sandboxes]
    assert sandboxes[0] != sandboxes[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_app_s_environment_reads_as_it_was_meant(kind: str, tmp_path: Path) -> None:
    """The package's own reader finds every value unchanged, and the address the app can reach."""
    path = tmp_path / "cache.env"
    path.write_bytes(files(kind)["/etc/redkeep/cache.env"])
    assert application.values(FakeSite(_bundles()[kind]), survey()) == dict(read_env_file(path))  # type: ignore[arg-type]
    address = "10.213.0.2" if kind in ("boxed", "crowd") else "127.0.0.1"
    assert f"rediss://{address}:6380/0" == read_env_file(path)["REDIS_URL"]


@pytest.mark.parametrize("on", [True, False])
def test_tracking_is_granted_and_asked_for_together(on: bool) -> None:
    """The knob gives the cache user client|tracking and the app the setting; without it neither is there."""
    site = FakeSite(build([("@local", frozenset({"redis", "app"}), data(cache_tracking=on))])["@local"])
    (user,) = (each for each in users(site, survey()) if each.name == "cache_service")  # type: ignore[arg-type]
    assert on == ("+client|tracking" in user.rules)
    assert ("true" if on else None) == application.values(site, survey()).get("REDIS_CLIENT_TRACKING")  # type: ignore[arg-type]


def test_the_environment_holds_the_app_s_secrets_and_no_others() -> None:
    """The cache user's password, that of the user that may only ask INFO, and the keys; nothing of the operator."""
    content = text("alone", "/etc/redkeep/cache.env")
    assert ["cache_service", "health_service"] == re.findall(r"word-of-(\w+)", content)


def test_no_password_in_clear_reaches_the_server_s_files() -> None:
    """redis.conf and users.acl hold hashes; the operator's own word is in its one file."""
    holders = [path for path, content in files("alone").items() if b"word-of-" in content]
    assert ["/etc/redkeep/operator/password", "/etc/redkeep/cache.env"] == holders


@pytest.mark.parametrize(("kind", "minimum"), [("alone", "TLSv1.3"), ("others", "TLSv1.2")])
def test_openssl_is_told_groups_and_version(kind: str, minimum: str) -> None:
    """The file is the one that OpenSSL's parser reads, section by section."""
    parser = configparser.ConfigParser(strict=True)
    parser.read_string("[top]\n" + text(kind, "/etc/redis/openssl.cnf" if kind == "alone" else "/etc/valkey/openssl.cnf"))
    assert ("redkeep", "ssl", "policy") == (parser["top"]["openssl_conf"], parser["redkeep"]["ssl_conf"], parser["ssl"]["system_default"])
    assert ("X25519:P-256:P-384", minimum) == (parser["policy"]["Groups"], parser["policy"]["MinProtocol"])


def test_kernel_settings_are_the_knob_s() -> None:
    """One line each, as sysctl reads them."""
    lines = text("alone", "/etc/sysctl.d/90-redkeep.conf").splitlines()[1:]
    assert ["vm.overcommit_memory = 1", "net.core.somaxconn = 1024"] == lines


@pytest.mark.parametrize(("days", "code"), [(60, 0), (10, 1)])
def test_the_daily_check_alarms_before_expiry(days: int, code: int, tmp_path: Path) -> None:
    """Run for real: silent for a certificate with 60 days left, an alarm with its path and date for one with 10."""
    (tmp_path / "server.crt").write_bytes(authority().issue(["a.example"], use="server", days=days, common_name="a").cert_pem)
    script = render("usr/local/sbin/redkeep-certificates", certificates=[f"{tmp_path}/*.crt", "/nonexistent/*.crt"], alarm_days=14)
    done = subprocess.run(["sh"], input=script.decode(), capture_output=True, text=True, check=False)
    assert code == done.returncode
    assert bool(code) == bool(re.fullmatch(rf"<3>{tmp_path}/server.crt expires on .* GMT: run the deploy to renew it\n", done.stderr))


def test_the_operator_s_password_is_no_argument(tmp_path: Path) -> None:
    """Run for real with a client that shows how it was called: the word is in its environment alone."""
    (tmp_path / "password").write_text("canary-5f1")
    client = tmp_path / "client"
    client.write_text('#!/bin/sh\nprintf "%s|" "$@"; echo "$REDISCLI_AUTH"\n')
    client.chmod(0o700)
    script = text("alone", CLI).replace("/etc/redkeep/operator", str(tmp_path)).replace("/usr/bin/redis-cli", str(client))
    done = subprocess.run(["sh", "-s", "CONFIG", "GET a b"], input=script, capture_output=True, text=True, check=True)
    words = done.stdout.rstrip("\n").split("|")
    assert ("canary-5f1", ["127.0.0.1", "-p", "6380", "CONFIG", "GET a b"]) == (words[-1], words[-6:-1])
    assert "canary-5f1" not in words[:-1]
