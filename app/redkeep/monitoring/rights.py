"""What each user of the server may really do, who else there is, and who is connected: asked as `monitor`, by ACL DRYRUN,
ACL USERS and CLIENT LIST.

`ACL DRYRUN` answers as the server would, runs nothing and leaves no line in ACL LOG (Redis 7.0, Valkey 7.2 and later).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from redkeep.access.tls import client_context
from redkeep.errors import RedkeepError
from redkeep.monitoring.any_password import Tried, probe_passwords
from redkeep.monitoring.control import Control
from redkeep.monitoring.probes import REDEPLOY, explain
from redkeep.monitoring.server_report import connections
from redkeep.monitoring.setting_names import MONITOR_PREFIX
from redkeep.monitoring.wire import Refusal, Wire
from redkeep.monitoring.words import harmless, listed
from redkeep.target import Target

if TYPE_CHECKING:
    from redkeep.access.matrix import Case

NAMES: Final = (
    "users' rights", "default user's rights", "dangerous commands", "unknown users", "users' passwords", "connected users", "connected ports",
)  # fmt: skip
_BY_CHOICE: Final = ("CLIENT", "TRACKING", "on")
"""A deployment may give it to the cache user (acl.py, `client_tracking`)."""

_KILL: Final = f"as the operator: ACL DELUSER and CLIENT KILL USER, then deploy again; or name your own in {MONITOR_PREFIX}USERS"
_GRANT: Final = "run `make deploy`: it gives monitor the right"
_ASK_USERS: Final = ("ACL", "USERS")
_SHOWN: Final = 5


def probe_users(
    target: Target, *, timeout: float = 3.0, expected: Collection[str] = (), tried: Tried | None = None
) -> Iterator[Control]:
    """Effective rights of every user, who else there is, whether their passwords count, and who is connected how; never raises.
    `timeout` in seconds, for each step.

    `expected` are users of other people's making; the one that the target logs in as is expected anyway. `tried` remembers
    which passwords were tried. Without the monitor's password there is nobody to ask as: one control says so.
    """
    if not target.monitor_password:
        yield Control(NAMES[0], "not applicable", "checked by the security monitoring, which has the password of `monitor`")
        return
    from redkeep.access.acl import USERS  # here: not every host has somebody to ask as
    from redkeep.access.matrix import command_matrix

    known = {*USERS, *expected, target.username or "default"}
    try:
        context = client_context(target) if target.tls else None
        with Wire(target.host, target.port, context=context, timeout=timeout, max_reply_bytes=16 * 1024 * 1024) as wire:
            (login,) = wire.ask(("AUTH", "monitor", target.monitor_password))
            if login != "OK":
                yield from _unknown(NAMES, "the login of monitor was refused", REDEPLOY)
                return
            cells = [case for case in command_matrix() if not case.allowed and case.line != _BY_CHOICE]
            found = _rights(cells, wire.ask(*(("ACL", "DRYRUN", case.user, *case.line) for case in cells)))
            found += _users(wire, target, known, tried or Tried())
            clients = _connected(wire.ask(("CLIENT", "LIST"))[0], target, known)
    except (OSError, RedkeepError, ValueError) as error:
        yield from _unknown(NAMES, f"could not be checked: {explain(error)}", "")
        return
    yield from found
    yield from clients


def _rights(cells: Sequence[Case], replies: Sequence[object]) -> list[Control]:
    refused = next((reply for reply in replies if isinstance(reply, Refusal) and reply.code == "NOPERM"), None)
    if refused is not None:
        return list(_unknown(NAMES[:3], "monitor may not run ACL DRYRUN", REDEPLOY))
    there = {case.user for case, reply in zip(cells, replies, strict=True) if not isinstance(reply, Refusal)}
    may: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in NAMES[:3]}
    for case, reply in zip(cells, replies, strict=True):
        if reply == "OK":
            kind = NAMES[1] if case.user == "default" else NAMES[2] if case.line[0] in ("DEBUG", "MODULE", "MONITOR") else NAMES[0]
            may[kind][case.user].append(" ".join(case.line[:2]) if case.line[0] in ("ACL", "CONFIG", "CLIENT", "MODULE") else case.line[0])
    others = there - {"operator", "default"}
    good = {
        NAMES[0]: f"{len(others)} users may run only what they need",
        NAMES[1]: "default may run no command",
        NAMES[2]: "no user may run DEBUG, MODULE or MONITOR, not even the operator",
    }
    return [
        Control(name, "weak", _listed(may[name]), REDEPLOY) if may[name] else Control(name, "ok", good[name]) for name in NAMES[:3]
    ]


def _listed(users: dict[str, list[str]]) -> str:
    parts = []
    for user, lines in users.items():
        short = list(dict.fromkeys(lines))
        parts.append(f"{user} may run {listed(short, most=4)}")
    return "; ".join(parts)


def _users(wire: Wire, target: Target, known: Collection[str], tried: Tried) -> Iterator[Control]:
    """Users that neither Redkeep nor the settings name, connected or not; and known ones that any password opens."""
    (may,) = wire.ask(("ACL", "DRYRUN", "monitor", *_ASK_USERS))  # a refusal of the question itself would stand in ACL LOG
    if isinstance(may, Refusal):
        yield from _unknown(NAMES[3:5], "monitor may not run ACL DRYRUN", REDEPLOY)
        return
    reply = wire.ask(_ASK_USERS)[0] if may == "OK" else None
    if not isinstance(reply, list):
        yield from _unknown(NAMES[3:5], "monitor may not run ACL USERS", _GRANT)
        return
    there = {each.decode("utf-8", "backslashreplace") if isinstance(each, bytes) else str(each) for each in reply}
    strangers = sorted(there - set(known))
    if strangers:
        yield Control(NAMES[3], "weak", f"Redkeep did not create: {listed([*map(harmless, strangers)], most=_SHOWN)}", _KILL)
    else:
        yield Control(NAMES[3], "ok", f"all {len(there)} users are known")
    others = there & set(known) - {"default", target.username}  # these two were tried without monitor (probes.py)
    yield probe_passwords(wire, f"{target.host}:{target.port}", others, target.monitor_password or "", tried)


def _connected(reply: object, target: Target, known: Collection[str]) -> list[Control]:
    if isinstance(reply, Refusal):
        return list(_unknown(NAMES[5:], "monitor may not run CLIENT LIST", REDEPLOY))
    there = connections(reply)
    strangers = sorted({each.user for each in there} - set(known))
    ours = {each.port for each in there if each.user == "monitor"}  # by this very connection; a port can be mapped on the way
    elsewhere = sorted({each.port for each in there if each.port} - ours)
    return [
        Control(NAMES[5], "weak", f"connected as {listed([*map(harmless, strangers)], most=_SHOWN)}", _KILL)
        if strangers
        else Control(NAMES[5], "ok", "all connected users are known"),
        Control(NAMES[6], "weak", f"clients also use port {', '.join(map(str, elsewhere[:5]))}", "deploy again: it sets port 0")
        if elsewhere
        else Control(NAMES[6], "ok", f"every client uses the TLS port of {target.host}"),
    ]


def _unknown(names: Sequence[str], evidence: str, remedy: str) -> Iterator[Control]:
    for name in names:
        yield Control(name, "unknown", evidence, remedy)
