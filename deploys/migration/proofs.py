"""What proves each stage, on the way forward and on the way back: a sentence when it is not proved, and what was seen."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from deploys.facts.survey import Survey
from deploys.migration.passage import Passage
from deploys.migration.window import VERIFIED
from deploys.stages.wanted import leaf, users, version
from redkeep.access.acl import acl_differences, parse_acl_list

Seen = Mapping[str, str | int]


def backed_up(passage: Passage, _: Survey) -> tuple[str, Seen]:
    """The backup was restored and compared."""
    ok, lines, _errors = passage.site.run(f"cat {VERIFIED}")
    seen = dict(line.split(" ", 1) for line in lines if " " in line)
    return ("", seen) if ok and "sha256" in seen else ("there is no verified backup.", {})


def log_in(passage: Passage, survey: Survey) -> tuple[str, Seen]:
    """Each user by its own password; a wrong one is refused."""
    site, window = passage.site, passage.window
    ours = [user.name for user in users(site, survey) if user.name != "default"]
    call = f"{site.bundle.engine.cli} --no-auth-warning -h {window.address} -p {window.port}"
    script = f"""for u in {shlex.join(ours)}; do
    IFS= read -r p; [ "$(REDISCLI_AUTH="$p" {call} --user "$u" PING 2>/dev/null </dev/null)" = PONG ] || echo "$u cannot log in"
    REDISCLI_AUTH="not-$p" {call} --user "$u" PING 2>&1 </dev/null | grep -q WRONGPASS || echo "$u logs in with a wrong password"
done"""
    passwords = "".join(f"{site.credentials.password(name)}\n" for name in ours)
    ok, lines, errors = site.run(script, stdin=passwords)
    if not ok or lines:
        return f"{'; '.join(lines or errors)}.", {}
    return "", {"users": len(ours)}


def encrypted(passage: Passage, survey: Survey) -> tuple[str, Seen]:
    """The TLS port shows our certificate, and nobody enters without one of ours."""
    site = passage.site
    certificate = leaf(site, survey).fingerprint
    if survey.server.certificate != certificate:
        return f"the TLS port presents certificate {survey.server.certificate[:16] or 'none'}, wanted {certificate[:16]}.", {}
    if site.bundle.knobs.tls_client_certificates == "required":
        port, folder = site.bundle.knobs.redis_tls_port, "/etc/redkeep/operator"
        _ok, lines, _errors = site.run(
            f"timeout 10 {site.bundle.engine.cli} --tls --cacert {folder}/ca.crt -h {passage.window.address} -p {port} PING 2>&1"
        )
        if "PONG" in lines or any("NOAUTH" in line for line in lines):
            return "the TLS port accepts a client without a certificate.", {}
    return "", {"certificate": certificate[:16]}


def bounded(passage: Passage, survey: Survey) -> tuple[str, Seen]:
    """The running users are the wanted ones, and nobody enters without a password."""
    wanted = users(passage.site, survey)
    running = parse_acl_list(survey.server.acl, version=version(passage.site, survey))
    if wrong := acl_differences(wanted, running):
        return f"{wrong[0]}.", {}
    call = f"{passage.site.bundle.engine.cli} -h {passage.window.address} -p {passage.window.port} PING 2>&1"
    _ok, lines, _errors = passage.site.run(call)
    if not any("NOAUTH" in line for line in lines):
        return f"the server answers a client without a password: {' '.join(lines)[:80]}.", {}
    return "", {"users": len(wanted), "without a password": "refused"}


def as_before(passage: Passage, survey: Survey) -> tuple[str, Seen]:
    """The server's configuration file is the one of before, byte for byte, and it answers at its own port."""
    engine, window = passage.site.bundle.engine, passage.window
    if window.documented and survey.file(engine.config).sha256 != window.original:
        return f"{engine.config} differs from the file before the migration.", {}
    return "", {"sha256 of the configuration": window.original[:16]} if window.documented else {}
