"""Controls of the server, each found out by trying: six short connections, with the target's own credentials only.

Nothing here can do harm where it succeeds: the commands that must be refused only read, and the one key that is written
lives for 60 seconds at most and is deleted. The refused logins use the user name `redkeep-probe` or come from a connection
of that name, as the refused commands do in a transaction that is thrown away, so that a reader of ACL LOG can tell a probe
from an attack, and the server counts neither into the other's entry.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Final

from redkeep.access.tls import alert_after_handshake, client_context
from redkeep.errors import RedkeepError
from redkeep.monitoring.certificates import EXPIRY_DAYS, certificate_ends
from redkeep.monitoring.control import Control, State
from redkeep.monitoring.round_trip import sealed_round_trip
from redkeep.monitoring.wire import ProtectedModeError, Refusal, Wire
from redkeep.target import DEFAULT_PORT, Target

PROBE_NAME: Final = "redkeep-probe"
MONITOR: Final = "monitor"
"""The user that a probe of the other users is logged in as (rights.py); it may not name its connection."""

ALERT_SECONDS: Final = 0.3
"""How long a server that demands a certificate may take to say so; it does at once, and only a weak one costs the wait."""

_SESSION: Final = (
    "login",
    "TLS version",
    "server certificate",
    "certificate expiry",
    "cache user's rights",
    "default user",
    "sealed round trip",
)
_REFUSALS: Final = (
    "TLS downgrade",
    "mutual TLS",
    "plaintext on the TLS port",
    "no login without password",
    "wrong password",
)
_PLAINTEXT_PORT: Final = "plaintext port"
REDEPLOY: Final = "deploy again: it resets the users"

# Read-only commands that no cache needs: other clients' settings, users, key names and values.
_FORBIDDEN: Final = (
    ("CONFIG", "GET", "maxmemory"), ("ACL", "WHOAMI"), ("ACL", "LIST"), ("KEYS", "redkeep:none"), ("SCAN", "0", "COUNT", "1"),
    ("GET", "redkeep:outside"), ("DBSIZE",),
)
PROBED_CONTEXT: Final = "multi"
PROBED_OBJECTS: Final = frozenset({"config|get", "acl|whoami", "acl|list", "keys", "scan", "redkeep:outside", "dbsize"})
"""What stands as the object of a refusal in ACL LOG when a probe was refused: the command, or the key."""

PROBED_USER_OBJECT: Final = "AuTh"
"""How a probe spells AUTH. The server keeps the spelling in ACL LOG and counts refusals that are spelt alike as one: so a
probe's refused logins are never in one entry with somebody else's."""


def probe_server(target: Target, *, timeout: float = 3.0) -> Iterator[Control]:
    """Every control that the network shows, each once; never raises. `timeout` is in seconds, for each step.

    The password is sent only after the server's certificate has held.
    """
    found: list[Control] = []
    untried, remedy = "", ""
    with ExitStack() as closing:
        try:
            context = client_context(target) if target.tls else None
            wire = closing.enter_context(Wire(target.host, target.port, context=context, timeout=timeout))
            knock = closing.enter_context(_knock(wire.socket.getpeername()[0]))
            found += _session(wire, target)
            found += _refusals(target, context, timeout)
            found += _guarded((_PLAINTEXT_PORT,), lambda: [_plaintext_port(target, knock)])
        except ssl.SSLCertVerificationError as error:
            evidence = f"not valid: {error.verify_message}"
            remedy = "deploy again, or correct REDIS_URL and REDIS_TLS_CA_FILE"
            found.append(Control("server certificate", "weak", evidence, remedy))
            untried, remedy = "not tried: the server could not prove who it is", ""
        except ProtectedModeError:
            evidence = "it needs no password: the server says so, and only its protected mode refuses us"
            found = [Control("default user", "weak", evidence, REDEPLOY)]
            untried = "not tried: protected mode refuses every connection from another host"
        except (OSError, RedkeepError, ValueError) as error:
            untried, remedy = explain(error), "check that Redis runs, that it can be reached, and that the settings match it"
    yield from found
    seen = {control.name for control in found}
    yield from _all([n for n in (*_SESSION, *_REFUSALS, _PLAINTEXT_PORT) if n not in seen], untried, remedy=remedy)


def explain(error: Exception) -> str:
    """What a failed connection means, in a few words; never a secret, because no error of these holds one."""
    if isinstance(error, socket.gaierror):
        return "the server's name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'handshake').lower().replace('_', ' ')}"
    return str(error) or type(error).__name__


def _session(wire: Wire, target: Target) -> Iterator[Control]:
    login = ("AUTH", *filter(None, (target.username, target.password)))
    replies = wire.ask(*([login] if target.password else []), ("PING",))
    who = target.username or "default"
    named = replies[-1] == "PONG" and wire.ask(("CLIENT", "SETNAME", PROBE_NAME)) == ["OK"]
    if replies[-1] != "PONG":
        reason = next((str(reply) for reply in replies if isinstance(reply, Refusal)), "no reply to PING")
        yield Control("login", "weak", f"{who} cannot use the server: {reason}", "deploy again, or correct the user and its password")
    elif not target.password:
        yield Control("login", "weak", "the server accepts everybody without a password", "set a user and a password")
    elif named and not _refused(wire.ask((PROBED_USER_OBJECT, who, os.urandom(24).hex()))[0], "WRONGPASS"):
        yield Control("login", "weak", f"the server accepts a wrong password for {who}", REDEPLOY)
    else:
        yield Control("login", "ok", f"{who} can log in")
    yield from _certificate(wire, target)
    if replies[-1] != "PONG":
        yield from _all(_SESSION[4:], "not tried: no login")
        return
    yield _rights(wire, who)
    round_trip = _guarded(_SESSION[-1:], lambda: [sealed_round_trip(wire, target)])
    yield from _guarded(_SESSION[5:6], lambda: [_default_user(wire, target)])  # last: it may change who we are
    yield from round_trip


def _certificate(wire: Wire, target: Target) -> Iterator[Control]:
    connection = wire.socket
    if not isinstance(connection, ssl.SSLSocket):
        yield Control("TLS version", "weak", "no TLS: the network can read everything", "set REDIS_TLS_ENABLED=true")
        yield from _all(_SESSION[2:4], "TLS is off", state="not applicable")
        return
    version, cipher = connection.version() or "?", (connection.cipher() or ("?",))[0]
    good = version == "TLSv1.3" or target.tls_min_version == "1.2"
    yield Control("TLS version", "ok" if good else "weak", f"{version}, {cipher}")
    yield Control("server certificate", "ok", f"valid for {target.host}, verified against our CA only")
    yield from _guarded(_SESSION[3:4], lambda: [_expiry(target, connection)])


def _expiry(target: Target, connection: ssl.SSLSocket) -> Control:
    """The certificate that ends first: the server's, our own, or the CA's (of two while one replaces the other, the newer)."""
    ends = certificate_ends(target, connection)
    whose = min(ends, key=ends.__getitem__)
    days = int((ends[whose] - time.time()) // 86_400)
    evidence = f"the {whose} certificate expires first, in {days} days"
    if days >= EXPIRY_DAYS:
        return Control("certificate expiry", "ok", evidence)
    return Control("certificate expiry", "weak", evidence, "deploy again: it renews certificates")


def _rights(wire: Wire, who: str) -> Control:
    name, replies = "cache user's rights", wire.ask(("MULTI",), *_FORBIDDEN, ("DISCARD",))[1:-1]
    allowed = [" ".join(line[:2]) for line, reply in zip(_FORBIDDEN, replies, strict=True) if not _is_denied(reply)]
    if allowed:
        return Control(name, "weak", f"{who} may run {', '.join(allowed)}", REDEPLOY)
    return Control(name, "ok", f"{who} is refused {len(_FORBIDDEN)} commands that no cache needs")


def _is_denied(reply: object) -> bool:
    """NOPERM, or a command that the server does not know (renamed away); another error means that it came through."""
    return isinstance(reply, Refusal) and (reply.code == "NOPERM" or reply.startswith("ERR unknown command"))


def _refusals(target: Target, context: ssl.SSLContext | None, timeout: float) -> Iterator[Control]:
    def wire(using: ssl.SSLContext | None) -> Wire:
        return Wire(target.host, target.port, context=using, timeout=timeout)

    if context is None:
        yield from _all(_REFUSALS[:3], "TLS is off", state="not applicable")
    else:
        yield from _guarded(_REFUSALS[:1], lambda: [_downgrade(target, wire)])
        yield from _guarded(_REFUSALS[1:2], lambda: [_mutual(target, wire)])
        yield from _guarded(_REFUSALS[2:3], lambda: [_plaintext_here(wire)])
    yield from _guarded(_REFUSALS[3:], lambda: _logins(wire(context)))


def _downgrade(target: Target, wire: Callable[[ssl.SSLContext | None], Wire]) -> Control:
    if target.tls_min_version == "1.2":
        return Control("TLS downgrade", "not applicable", "TLS 1.2 is allowed by REDIS_TLS_MIN_VERSION")
    try:
        with wire(client_context(target, only_version="1.2")) as opened:
            opened.ask(("PING",))
    except ssl.SSLError as error:
        if not _is_alert(error):
            raise
        return Control("TLS downgrade", "ok", "TLS 1.2 is refused")
    return Control("TLS downgrade", "weak", "the server accepts TLS 1.2", 'deploy again: it sets tls-protocols "TLSv1.3"')


def _mutual(target: Target, wire: Callable[[ssl.SSLContext | None], Wire]) -> Control:
    if target.cert_file is None:
        return Control("mutual TLS", "not applicable", "no client certificate is configured: only the password protects access")
    refused = Control("mutual TLS", "ok", "a client without a certificate is refused")
    try:
        with wire(client_context(target, client_certificate=False)) as opened:
            if alert_after_handshake(opened.socket, timeout=ALERT_SECONDS):
                return refused
            opened.ask(("PING",))
    except ssl.SSLError as error:
        if not _is_alert(error):
            raise
        return refused
    evidence = "the server accepts clients without a certificate"
    return Control("mutual TLS", "weak", evidence, "deploy again: it sets tls-auth-clients yes")


def _is_alert(error: ssl.SSLError) -> bool:
    """Whether the server refused: it says so by an alert. A failure on our side, or a cut connection, proves nothing."""
    return "ALERT" in (error.reason or "")


def _plaintext_here(wire: Callable[[ssl.SSLContext | None], Wire]) -> Control:
    with wire(None) as opened:
        if _speaks_redis(opened.socket):
            return Control("plaintext on the TLS port", "weak", "the TLS port answers in plaintext", "deploy again: it sets port 0")
    return Control("plaintext on the TLS port", "ok", "plaintext is refused")


def _plaintext_port(target: Target, knock: socket.socket) -> Control:
    name = _PLAINTEXT_PORT
    if not target.tls:
        evidence = f"we connect in plaintext, on port {target.port}"
        return Control(name, "weak", evidence, "set REDIS_TLS_ENABLED=true")
    if target.port == DEFAULT_PORT:
        return Control(name, "not applicable", f"port {DEFAULT_PORT} is the TLS port itself")
    if not select.select([], [knock], [], 0.25)[1]:
        return Control(name, "ok", f"port {DEFAULT_PORT} does not answer")
    if knock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return Control(name, "ok", f"port {DEFAULT_PORT} is closed")
    knock.settimeout(1.0)
    if _speaks_redis(knock):
        return Control(name, "weak", f"port {DEFAULT_PORT} speaks plaintext Redis", "deploy again: it sets port 0")
    return Control(name, "ok", f"port {DEFAULT_PORT} is open, but does not speak plaintext Redis")


def _speaks_redis(connection: socket.socket) -> bool:
    """Send a plain PING; a TLS server answers with an alert (first byte 0x15), a reset, or nothing."""
    try:
        connection.sendall(b"PING\r\n")
        return connection.recv(1) in (b"+", b"-")
    except (ConnectionResetError, BrokenPipeError):
        return False


def _default_user(wire: Wire, target: Target) -> Control:
    """Whether `default` is off cannot be asked without rights; whether it opens with what this host knows can."""
    if target.username in (None, "default"):
        return Control("default user", "weak", "we ourselves log in as `default`", "give the cache its own user")
    reply = wire.ask((PROBED_USER_OBJECT, "default", target.password or ""))[0]
    if _refused(reply, "WRONGPASS"):
        return Control("default user", "ok", "it refuses every password that this host knows")
    return Control("default user", "weak", "the user `default` is on and accepts our password", REDEPLOY)


def _logins(opened: Wire) -> list[Control]:
    with opened:
        # One after the other: Redis 8.0.2 leaves the second of two pipelined commands unanswered before a login.
        silent = opened.ask(("PING",))[0]
        wrong = opened.ask((PROBED_USER_OBJECT, PROBE_NAME, os.urandom(24).hex()))[0]
    first, second = _REFUSALS[3:]
    return [
        Control(first, "ok", "commands before a login are refused")
        if _refused(silent, "NOAUTH")
        else Control(first, "weak", "the server runs commands without a login", REDEPLOY),
        Control(second, "ok", "refused")
        if _refused(wrong, "WRONGPASS")
        else Control(second, "weak", f"the login of an unknown user is not refused: {wrong!s}", REDEPLOY),
    ]


def _refused(reply: object, code: str) -> bool:
    return isinstance(reply, Refusal) and reply.code == code


def _knock(address: str) -> socket.socket:
    """A connection to the classic port that is under way: a firewall that swallows it must not cost the run a wait."""
    knock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    knock.setblocking(False)
    knock.connect_ex((address, DEFAULT_PORT))
    return knock


def _guarded(names: Iterable[str], probe: Callable[[], list[Control]]) -> list[Control]:
    """What the probe finds; all its controls unknown, with the reason, when it could not run."""
    try:
        return probe()
    except (OSError, RedkeepError, ValueError) as error:
        return list(_all(names, f"could not be checked: {explain(error)}"))


def _all(
    names: Iterable[str], evidence: str, *, state: State = "unknown", remedy: str = ""
) -> Iterator[Control]:
    for name in names:
        yield Control(name, state, evidence, remedy)
        remedy = ""
