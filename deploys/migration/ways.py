"""The ways into the server at each level: the operator's command, the users, the TLS port, and the file that keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from deploys.bundle import LOOPBACK
from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.facts.survey import Survey
from deploys.migration.legacy import WORDS
from deploys.migration.passage import Passage
from deploys.migration.window import include_file, include_text, original_file
from deploys.rendering import render
from deploys.server_settings import CERTIFICATE_SETTINGS, line
from deploys.stages import network, server
from deploys.stages.service import COMMAND_SCRIPT, quoted, running_users
from deploys.stages.wanted import CLI, OPERATOR, leaf, settings, users, version
from redkeep.access.acl import AclUser, acl_differences, acl_file, parse_acl_list, setuser_arguments
from redkeep.migration.stages import LEVELS

Way = Literal["default", "operator", "tls"]

# Read again together: the first two make the port of no use without the others.
TLS_SETTINGS = (
    *("tls-protocols", "tls-ciphersuites", "tls-ciphers", "tls-prefer-server-ciphers", "tls-session-caching", "tls-auth-clients"),
    *CERTIFICATE_SETTINGS,
    "tls-port",
)


def way_of(level: int) -> Way:
    """How the operator's command reaches the server in the state of a level."""
    return "tls" if level >= LEVELS["tls"] else "operator" if level >= LEVELS["authentication"] else "default"


def _command(passage: Passage, survey: Survey, way: Way) -> Iterator[Difference]:
    if way == "tls":
        yield from server.operator_command(passage.site, survey)
        return
    engine, window = passage.site.bundle.engine, passage.window
    text = render(
        "usr/local/sbin/redkeep-cli",
        engine=engine,
        way=way,
        address=window.address,
        port=window.port,
        original=original_file(engine),
        words=WORDS,
    )
    yield from file_differences([ManagedFile(CLI, text, mode="0700")], survey)


def reach(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """Before anything else the operator's command works, by the door of the state that is left."""
    if survey.server.reachable or not passage.window.documented:
        return
    came_from = passage.level + (-1 if passage.verb == "migrate" else 1)
    way = way_of(came_from)
    if way == "tls" and LEVELS["close"] not in (passage.level, came_from):
        # The plaintext port is open until the last stage, whatever became of the other.
        way = "operator"
    yield from _command(passage, survey, way)


def command(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The operator's command as the level has it."""
    if passage.level >= LEVELS["authentication"]:
        yield from server.operator_files(passage.site, survey)
        yield from _command(passage, survey, way_of(passage.level))
    elif passage.verb == "rollback" and survey.file(CLI).kind:
        yield from _command(passage, survey, "default")


def command_gone(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """Before there are users there is no operator."""
    if passage.level < LEVELS["authentication"] and survey.file(OPERATOR).kind:
        yield Difference("the operator's login is no longer needed", f"rm -rf {OPERATOR} {CLI}")


def live_users(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The users in the running server: ours, and `default` as it was before until access control."""
    if not survey.server.reachable or not passage.window.documented:
        return
    if passage.level >= LEVELS["access_control"]:
        yield from running_users(passage.site, survey)
        return
    number = version(passage.site, survey)
    running = parse_acl_list(survey.server.acl, version=number)
    ours = [user for user in users(passage.site, survey) if user.name != "default"]
    if passage.level >= LEVELS["authentication"]:
        for user in ours:
            if wrong := acl_differences([user], {name: u for name, u in running.items() if name == user.name}):
                words = " ".join(map(quoted, setuser_arguments(user)))
                yield Difference("; ".join(wrong), COMMAND_SCRIPT, f"ACL {words}\n")
    for before in passage.window.acl:
        yield from _as_before(before, running, number)
    if passage.level < LEVELS["authentication"]:
        for user in ours:
            if user.name in running:
                yield Difference(f"user {user.name} still exists", COMMAND_SCRIPT, f"ACL DELUSER {user.name}\n")


def _as_before(text: str, running: dict[str, AclUser], number: tuple[int, int]) -> Iterator[Difference]:
    """A user of before as ACL LIST told it then: hashes, no password."""
    wanted = list(parse_acl_list([text], version=number).values())
    there = {user.name: running[user.name] for user in wanted if user.name in running}
    if wrong := acl_differences(wanted, there):
        words = text.split()
        yield Difference(
            "; ".join(wrong), COMMAND_SCRIPT, f"ACL SETUSER {quoted(words[1])} reset {' '.join(map(quoted, words[2:]))}\n"
        )


def certificates(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The server's certificate on disk."""
    engine = passage.site.bundle.engine
    if passage.level >= LEVELS["tls"]:
        yield from folder_differences([(engine.tls_folder, "root", engine.user, "0750")], survey)
        yield from server.certificates(passage.site, survey)
    elif survey.file(engine.tls_folder).kind:
        yield Difference(f"folder {engine.tls_folder} is no longer needed", f"rm -rf {engine.tls_folder}")


def firewall(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """Who may reach the TLS port."""
    if passage.level >= LEVELS["tls"]:
        yield from network.firewall_files(passage.site, survey)
        yield from network.firewall_live(passage.site, survey)
    elif survey.file(network.RULES).kind or survey.file(network.UNIT_FILE).kind:
        yield Difference("the firewall's rules are still loaded", network.remove_script(survey))


def open_door(passage: Passage) -> str:
    """What is said before the TLS port opens on addresses of the old server that no allow-list guards; empty when none is."""
    if network.wanted(passage.site) or not passage.window.documented:
        return ""
    bind = passage.window.before.get("bind", "")
    doors = [word.removeprefix("-") for word in bind.split()]
    if doors and all(door in LOOPBACK or door.startswith("127.") for door in doors):
        return ""
    asks = passage.site.bundle.knobs.tls_client_certificates == "required"
    return (
        f"port {passage.site.bundle.knobs.redis_tls_port} opens on {bind or 'every address'}, where the server listens now, without an "
        f"allow-list: clients that reach it are asked for {'a certificate and a password' if asks else 'a password'}. Block it in front of "
        "this host; the last stage listens only where the inventory says."
    )


def live_tls(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The TLS port of the running server, beside the plaintext port."""
    found, window = survey.server.config, passage.window
    if not survey.server.reachable or not window.documented:
        return
    if passage.level >= LEVELS["tls"]:
        wanted = settings(passage.site, survey)
        wrong = [name for name in TLS_SETTINGS if name in found and found[name] != wanted[name]]
        if wrong or survey.server.certificate != leaf(passage.site, survey).fingerprint:
            pairs = " ".join(f"{name} {quoted(wanted[name])}" for name in TLS_SETTINGS if name in found)
            what = ", ".join(wrong) or "the certificate"
            yield Difference(f"the running server's TLS settings differ: {what}", COMMAND_SCRIPT, f"CONFIG SET {pairs}\n")
        return
    if found.get("tls-port", "0") != "0":
        port = passage.site.bundle.knobs.redis_tls_port
        yield Difference("the TLS port is still open", f"{COMMAND_SCRIPT}\n{sessions_end(port)}", "CONFIG SET tls-port 0\n")
    wrong = [name for name in TLS_SETTINGS if name in found and name in window.before and found[name] != window.before[name]]
    if pairs := " ".join(f"{name} {quoted(window.before[name])}" for name in wrong if name != "tls-port"):
        yield Difference("the TLS settings differ from those before the migration", COMMAND_SCRIPT, f"CONFIG SET {pairs}\n")


def sessions_end(port: int) -> str:
    """Shell that ends every session that came in by a port."""
    return f"""{CLI} CLIENT LIST | tr -d '\\r' | sed -n 's/^id=\\([0-9]*\\) .* laddr=[^ ]*:{port} .*/\\1/p' |
while read -r n; do {CLI} CLIENT KILL ID "$n" >/dev/null </dev/null || true; done"""


def persisted(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The state of the level survives a restart: the server's own file, and ours that it includes."""
    engine, window = passage.site.bundle.engine, passage.window
    ours = include_file(engine)
    if not window.documented:
        return
    if passage.level < LEVELS["authentication"]:
        if survey.file(engine.config).sha256 != window.original:
            yield Difference(f"file {engine.config} differs from before the migration", _place_config(passage, ""))
        if survey.file(ours).kind:
            yield Difference(f"file {ours} is no longer needed", f"rm -f {ours}")
        return
    text = include(passage, survey)
    # Whoever listens on every address has the real ports on the throwaway server's, too.
    options = '--include "$t" --unixsocket "" --port $(( 20000 + $$ % 10000 ))'
    if passage.level >= LEVELS["tls"]:
        options += " --tls-port $(( 30000 + $$ % 10000 ))"
    # Tried with the file of before, from a copy that the server's user can read.
    attempt = f"""c=$(mktemp {engine.folder}/.redkeep.XXXXXXXX); trap 'rm -f "$t" "$c"' EXIT
cat {original_file(engine)} > "$c"; chown root:{engine.user} "$c"; chmod 0640 "$c"
{server.try_server(engine, config='"$c"', options=options)}
rm -f "$c"
"""
    yield from file_differences([ManagedFile(ours, text, group=engine.user, mode="0640")], survey, before=attempt)
    if survey.file(engine.config).sha256 != window.extended:
        yield Difference(f"file {engine.config} does not include {ours}", _place_config(passage, include_text(engine)))


def _place_config(passage: Passage, more: str) -> str:
    engine = passage.site.bundle.engine
    before = original_file(engine)
    return f"""t=$(mktemp {engine.folder}/.redkeep.XXXXXXXX); trap 'rm -f "$t"' EXIT
{{ cat {before}; printf '{more}'; }} > "$t"
chown --reference={before} "$t"; chmod --reference={before} "$t"; sync "$t"; mv -fT "$t" {engine.config}"""


def include(passage: Passage, survey: Survey) -> bytes:
    """What a restart in between must find beside the server's own configuration."""
    kept: Sequence[AclUser] = [
        user for user in users(passage.site, survey) if user.name != "default" or passage.level >= LEVELS["access_control"]
    ]
    lines = [
        "# Managed by redkeep during a migration: do not edit.",
        *acl_file(kept).splitlines(),
    ]
    if passage.level >= LEVELS["tls"]:
        wanted = settings(passage.site, survey)
        lines += [line(name, wanted[name]) for name in TLS_SETTINGS]
    return ("\n".join(lines) + "\n").encode()
