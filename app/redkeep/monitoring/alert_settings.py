"""Whom to tell, how, and from how many on: the alert settings, read from the environment and checked before anything starts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from redkeep.environment import parse_flag, read_secret_file
from redkeep.errors import ConfigurationError
from redkeep.monitoring.setting_names import ALERT_NAMES, ALERT_SECRETS, check_names
from redkeep.monitoring.setting_names import ALERT_PREFIX as PREFIX

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

THRESHOLDS: Final = {"auth_failures_per_hour": 10, "encryption_errors_per_hour": 5, "connection_failures_per_hour": 20}
"""The PRD's."""

COOLDOWN_SECONDS: Final = 900
"""Between two notices of one kind while it lasts: four an hour wake somebody up, and do not bury anything else."""

_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}")


@dataclass(frozen=True, kw_only=True)
class Mail:
    """An SMTP account. `security` is "starttls" or "tls"; there is no plaintext: an alert names users and addresses."""

    recipients: tuple[str, ...]
    sender: str
    host: str
    port: int
    security: str
    username: str | None
    password: str | None = field(repr=False)
    ca_file: Path | None


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where to POST. `url` may hold a token, so it is a secret; `networks` are private ones that it may lie in."""

    url: str = field(repr=False)
    secret: str | None = field(repr=False)
    ca_file: Path | None
    networks: tuple[Network, ...]
    dev_http: bool


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """Channels beside the log, thresholds by the hour, seconds of quiet between two notices of one kind."""

    mail: Mail | None = None
    webhook: Webhook | None = None
    thresholds: Mapping[str, int] = field(default_factory=lambda: dict(THRESHOLDS))
    cooldown_seconds: int = COOLDOWN_SECONDS

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never stand in an alert."""
        found = (self.mail and self.mail.password, self.webhook and self.webhook.url, self.webhook and self.webhook.secret)
        return tuple(each for each in found if each)

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> AlertSettings:
        """From `SECURITY_ALERT_...` variables; each secret also from the file that `..._FILE` names.

        Raises ConfigurationError with one sentence: which variable, and what to do; never a value.
        """
        check_names(variables)
        values = {name: variables[PREFIX + name].strip() for name in (*ALERT_NAMES, *ALERT_SECRETS) if variables.get(PREFIX + name, "").strip()}
        for name in ALERT_SECRETS:
            pointer = variables.get(f"{PREFIX}{name}_FILE", "").strip()
            if pointer and name in values:
                raise ConfigurationError(f"{PREFIX}{name} and {PREFIX}{name}_FILE are both set; keep one")
            if pointer:
                values[name] = read_secret_file(Path(pointer), field=f"{PREFIX}{name}_FILE").strip()
        development = variables.get("ENVIRONMENT", "").strip().lower() == "development"
        return cls(
            mail=_mail(values),
            webhook=_webhook(values, development=development),
            thresholds={name: _number(values, name.upper(), default, least=1) for name, default in THRESHOLDS.items()},
            cooldown_seconds=_number(values, "COOLDOWN_SECONDS", COOLDOWN_SECONDS, least=1),
        )


def _mail(values: Mapping[str, str]) -> Mail | None:
    if "EMAIL" not in values:
        return None
    recipients = tuple(part.strip() for part in values["EMAIL"].split(",") if part.strip())
    sender = values.get("EMAIL_FROM") or (recipients[0] if recipients else "")
    for name, address in (*(("EMAIL", each) for each in recipients), ("EMAIL_FROM", sender)):
        if not _ADDRESS.fullmatch(address):
            raise ConfigurationError(f"{PREFIX}{name} contains something that is not a mail address; write name@host, separated by commas")
    host = values.get("SMTP_HOST", "")
    if not _HOST.fullmatch(host):
        raise ConfigurationError(f"{PREFIX}SMTP_HOST is missing or not a host name, and {PREFIX}EMAIL needs it; name the mail server")
    security = values.get("SMTP_SECURITY", "starttls").lower()
    if security not in ("starttls", "tls"):
        raise ConfigurationError(f"{PREFIX}SMTP_SECURITY must be starttls or tls")
    username, password = values.get("SMTP_USERNAME"), values.get("SMTP_PASSWORD")
    if (username is None) != (password is None):
        raise ConfigurationError(f"{PREFIX}SMTP_USERNAME and {PREFIX}SMTP_PASSWORD belong together; set both or neither")
    if not (username or "").isprintable() or not (password or "").isprintable():
        raise ConfigurationError(f"{PREFIX}SMTP_USERNAME or {PREFIX}SMTP_PASSWORD holds a control character; remove it")
    port = _number(values, "SMTP_PORT", 465 if security == "tls" else 587, least=1, most=65_535)  # RFC 8314, RFC 6409
    return Mail(
        recipients=recipients, sender=sender, host=host, port=port, security=security, username=username, password=password,
        ca_file=_file(values, "SMTP_CA_FILE"),
    )  # fmt: skip


def _webhook(values: Mapping[str, str], *, development: bool) -> Webhook | None:
    if "WEBHOOK" not in values:
        return None
    http = parse_flag(values.get("DEV_WEBHOOK_HTTP", "false"), field=f"{PREFIX}DEV_WEBHOOK_HTTP")
    if http and not development:
        raise ConfigurationError(f"{PREFIX}DEV_WEBHOOK_HTTP is refused in production; remove it, or set ENVIRONMENT=development")
    url = values["WEBHOOK"]
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and url.isascii() and all("!" <= c <= "~" for c in url)
    except ValueError:
        usable = False
    if not usable or parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{PREFIX}WEBHOOK is not a usable URL; write https://host/path, without user, password or '#'")
    if parts.scheme != "https" and not (http and parts.scheme == "http"):
        raise ConfigurationError(f"{PREFIX}WEBHOOK must begin with https://")
    try:
        networks = tuple(ipaddress.ip_network(part.strip()) for part in values.get("WEBHOOK_NETWORKS", "").split(",") if part.strip())
    except ValueError:
        raise ConfigurationError(f"{PREFIX}WEBHOOK_NETWORKS must be networks such as 10.0.0.0/8, separated by commas") from None
    secret = values.get("WEBHOOK_SECRET")
    if secret is not None and len(secret) < 16:
        raise ConfigurationError(f"{PREFIX}WEBHOOK_SECRET is shorter than 16 characters; make a random one")
    return Webhook(url=url, secret=secret, ca_file=_file(values, "WEBHOOK_CA_FILE"), networks=networks, dev_http=http)


def _file(values: Mapping[str, str], name: str) -> Path | None:
    if name not in values:
        return None
    path = Path(values[name])
    if not path.is_file():
        raise ConfigurationError(f"{PREFIX}{name}: {path} is not a readable file; name a file with the CA in PEM format")
    return path


def _number(values: Mapping[str, str], name: str, default: int, *, least: int, most: int = 1_000_000) -> int:
    text = values.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 8 and least <= int(text) <= most):
        raise ConfigurationError(f"{PREFIX}{name} must be a whole number from {least} to {most}")
    return int(text)
