"""Plain words for moments, amounts and kinds. Nothing here asks or shows anything."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

KINDS: Final = {
    "auth_attempt": "login",
    "permission_denied": "command refused",
    "tls_failure": "TLS failure",
    "decryption_failure": "decryption failed",
    "downgrade_refused": "plaintext value refused",
    "expired_value": "expired value",
    "configuration_error": "wrong configuration",
    "key_rotated": "key rotated",
    "brute_force": "password guessing",
    "posture_changed": "posture changed",
    "node_down": "server down",
    "node_up": "server up again",
    "client_seen": "new client",
    "alert": "alert sent",
    "alert_not_delivered": "alert not delivered",
    "state_unusable": "saved state unusable",
    "api_key_refused": "API key refused",  # pragma: allowlist secret - a word for people
}
"""What the kinds of events are called on the page; another kind keeps its own name."""

FIELDS: Final = {
    "redis_authenticated": "Authentication",
    "tls_enabled": "TLS encryption",
    "encryption_enabled": "Data encryption",
    "network_isolated": "Network isolation",
}
"""The fields of the status that are true or false, and what they are called."""

STATES: Final = {"ok": "holds", "weak": "weak", "unknown": "unknown", "not applicable": "not applicable"}
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def kind(event: dict[str, Any]) -> str:
    """What an event is called; a login says whether it was refused, an alert whether there was a channel to send it over."""
    name = str(event["type"])
    if name == "alert" and (event.get("details") or {}).get("channels") == "":
        return "alert, in the log only"
    if name == "auth_attempt":
        return "login" if event.get("success") else "login refused"
    return KINDS.get(name, name.replace("_", " "))


def verdict(status: dict[str, Any]) -> str:
    """The one answer for the page's head and its side: the posture's state, and never "ok" while a field is not true."""
    state, holds = str(status["state"]), [status[field] for field in FIELDS]
    return "weak" if state == "ok" and not all(holds) else state


def span(seconds: float) -> str:
    """`90 s`, `12 min`, `5 h`, `3 d`: whole numbers of the largest unit of which there are two."""
    whole = max(0, int(seconds))
    size, unit = next((each for each in _UNITS if whole >= 2 * each[0]), _UNITS[-1])
    return f"{whole // size} {unit}"


def ago(moment: str | None, *, now: datetime | None = None) -> str:
    """How long ago an ISO 8601 moment was; empty when there is none."""
    if not moment:
        return ""
    return f"{span(((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds())} ago"


def days(number: int) -> str:
    """`1 day`, `59 days`."""
    return f"{number} day{'' if number == 1 else 's'}"


def amount(number: float | None) -> str:
    """`1.3 k`, `18 M`; a dash when nobody knows."""
    if number is None:
        return "–"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if number >= size:
            return f"{number / (1e3 if unit == ' k' else size):.1f}{unit}"
    return f"{number:g}"


def size(octets: float | None) -> str:
    """`512 B`, `1.0 MiB`; a dash when nobody knows."""
    if octets is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if unit == "B" else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:.1f} GiB"


def percent(ratio: float | None) -> str:
    """`93 %`; a dash when nobody knows."""
    return "–" if ratio is None else f"{ratio * 100:.0f} %"
