"""Peer names: what a certificate is issued for, in one spelling each."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from redkeep.errors import ConfigurationError

MAX_DNS_LENGTH = 253
"""Characters in a DNS name: RFC 1035 section 2.3.4, without the final dot."""

# RFC 952 has no underscores, but container and service names do and OpenSSL compares them.
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")


def canonical_name(name: str) -> str:
    """Return the one spelling of a DNS name, a wildcard (`*.example.org`) or an IPv4 or IPv6 address.

    DNS names become lower case; addresses their shortest form, without brackets.

    Raises ConfigurationError when it is none of these.
    """
    text = name.strip("[]") if name.startswith("[") and name.endswith("]") else name
    try:
        if "%" not in text:
            return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    lowered = text.lower()
    wildcard = lowered.startswith("*.")
    labels = (lowered[2:] if wildcard else lowered).split(".")
    if not lowered.isascii():
        raise ConfigurationError(f"the name {name!r} is not ASCII; write it in its xn-- form")
    if len(lowered) > MAX_DNS_LENGTH or not all(_LABEL.match(label) for label in labels):
        raise ConfigurationError(
            f"{name!r} is neither a DNS name, a wildcard such as *.example.org, nor an address"
        )
    if labels[-1].isdigit():
        raise ConfigurationError(f"{name!r} looks like an address but is not one")
    if wildcard and len(labels) < 2:
        raise ConfigurationError(
            f"the wildcard {name!r} needs two labels after the star; otherwise clients ignore it"
        )
    return lowered


def canonical_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the canonical names, each once, in the order given. Raises like `canonical_name`."""
    if isinstance(names, str):
        raise ConfigurationError("names must be a list of names, not one string")
    return tuple(dict.fromkeys(canonical_name(name) for name in names))


def is_address(name: str) -> bool:
    """Tell whether a canonical name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def covers(names: Iterable[str], wanted: str) -> bool:
    """Tell whether a certificate for `names` is good for `wanted`; all in canonical spelling.

    A wildcard stands for exactly one label (RFC 9525 section 6.3) and never for an address.
    """
    if wanted in names:
        return True
    _, dot, parent = wanted.partition(".")
    return bool(dot) and not wanted.startswith("*") and not is_address(wanted) and f"*.{parent}" in names
