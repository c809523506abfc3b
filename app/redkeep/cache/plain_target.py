"""The target of a cache without security: whatever the URL says, as the old class took it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from redkeep.target import Target, parse_url


def plain_target(redis_url: str) -> Target:
    """The target of `redis_url`, its credentials included. With rediss:// the CA and certificate files are those of the
    environment (REDIS_TLS_CA_FILE, ...). Raises ConfigurationError for a URL that cannot be used.
    """
    address = parse_url(redis_url)
    tls = address.scheme == "rediss"
    fields = tls_files() if tls else {}
    return Target(
        address=address._replace(username=None, password=None),
        tls=tls,
        username=address.username,
        password=address.password,
        ca_file=fields.get("redis_tls_ca_file"),
        cert_file=fields.get("redis_tls_cert_file"),
        key_file=fields.get("redis_tls_key_file"),
        tls_min_version=fields.get("redis_tls_min_version", "1.3"),
        keys=(),
        namespace="",
        development=True,
    )


def tls_files() -> dict[str, Any]:
    """What the environment says of certificate files and of the TLS version, by the names of Settings."""
    found: dict[str, Any] = {}
    for field in ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file"):
        if os.environ.get(field.upper()):
            found[field] = Path(os.environ[field.upper()])
    if os.environ.get("REDIS_TLS_MIN_VERSION"):
        found["redis_tls_min_version"] = os.environ["REDIS_TLS_MIN_VERSION"]
    return found
