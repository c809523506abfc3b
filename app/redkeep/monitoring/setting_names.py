"""The names of the SECURITY_... variables: one that is misspelt must not be taken for one that is not set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from redkeep.errors import ConfigurationError

ALERT_PREFIX: Final = "SECURITY_ALERT_"
MONITOR_PREFIX: Final = "SECURITY_MONITOR_"

ALERT_SECRETS: Final = ("WEBHOOK", "WEBHOOK_SECRET", "SMTP_PASSWORD")
"""Each can also stand in the file that `..._FILE` names."""

ALERT_NAMES: Final = (
    *("EMAIL", "EMAIL_FROM", "SMTP_HOST", "SMTP_PORT", "SMTP_SECURITY", "SMTP_USERNAME", "SMTP_CA_FILE"),
    *("WEBHOOK_CA_FILE", "WEBHOOK_NETWORKS", "DEV_WEBHOOK_HTTP", "COOLDOWN_SECONDS"),
    *("AUTH_FAILURES_PER_HOUR", "ENCRYPTION_ERRORS_PER_HOUR", "CONNECTION_FAILURES_PER_HOUR"),
)
MONITOR_NAMES: Final = ("NODES", "USERS", "STATE_FILE", "OTLP_ENDPOINT")

KNOWN: Final = frozenset(
    {
        *(ALERT_PREFIX + name for name in (*ALERT_NAMES, *ALERT_SECRETS, *(f"{name}_FILE" for name in ALERT_SECRETS))),
        *(MONITOR_PREFIX + name for name in MONITOR_NAMES),
    }
)
_STEM: Final = "SECUR"
"""Names that are looked at: other programs have variables too, and theirs are not ours to judge."""

_LIKENESS: Final = 0.85
"""By difflib: from here on a name that is not ours is taken for a slip of the pen; SECURITY_HEADERS_ENABLED is not."""


def check_names(names: Iterable[str]) -> None:
    """Raises ConfigurationError for the first variable that begins like one of ours, or is spelt almost like one, and is none."""
    for name in sorted(names):
        if not name.upper().startswith(_STEM) or name in KNOWN:
            continue
        from difflib import get_close_matches  # here: it is needed once in a lifetime

        nearest = get_close_matches(name.upper(), sorted(KNOWN), n=1, cutoff=_LIKENESS)
        if nearest:
            raise ConfigurationError(f"{name} is not a setting of Redkeep; write {nearest[0]} if you mean that, or remove it")
        if name.startswith((ALERT_PREFIX, MONITOR_PREFIX)):
            raise ConfigurationError(f"{name} is not a setting of Redkeep; check the spelling or remove it")
