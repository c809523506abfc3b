"""The environment file: every setting with a generated literal value, for those who use only the package."""

from __future__ import annotations

from redkeep.crypto.keyring import generate_key
from redkeep.crypto.passwords import generate_password

PRODUCTION_URL = "rediss://redis:6379"
CERTIFICATES = (
    "A server with a certificate of a private CA: name that CA, and it alone is trusted. Mutual TLS: the client's own.",
    "REDIS_TLS_CA_FILE=/etc/redkeep/tls/ca.crt",
    "REDIS_TLS_CERT_FILE=/etc/redkeep/tls/client.crt",
    "REDIS_TLS_KEY_FILE=/etc/redkeep/tls/client.key",
)
DEVELOPMENT_URL = "redis://redis:6379"


def production_environment(*, url: str = PRODUCTION_URL) -> str:
    """Return a production environment file with fresh secrets: TLS, one user a service, encryption.

    The values are made anew at each call and kept nowhere else. REDIS_PASSWORD repeats the cache user's own
    password, for programs that know only that name: an application needs no stronger one.
    """
    cache = generate_password()
    return _render(
        "production",
        {
            "ENVIRONMENT": "production",
            "REDIS_URL": url,
            "REDIS_USERNAME": "cache_service",
            "REDIS_PASSWORD": cache,
            "REDIS_CACHE_PASSWORD": cache,
            "REDIS_HEALTH_PASSWORD": generate_password(),
            "REDIS_ENCRYPTION_KEY": generate_key(),
            "REDIS_TLS_ENABLED": "true",
            "REDIS_PROTECTED_MODE": "true",
            "REDIS_DEV_MODE": "false",
        },
        notes=CERTIFICATES,
    )


def development_environment(*, url: str = DEVELOPMENT_URL) -> str:
    """Return a development environment file: no TLS, and still a random password and key."""
    return _render(
        "development",
        {
            "ENVIRONMENT": "development",
            "REDIS_URL": url,
            "REDIS_PASSWORD": generate_password(),
            "REDIS_ENCRYPTION_KEY": generate_key(),
            "REDIS_TLS_ENABLED": "false",
            "REDIS_PROTECTED_MODE": "true",
            "REDIS_DEV_MODE": "true",
        },
    )


def _render(kind: str, values: dict[str, str], *, notes: tuple[str, ...] = ()) -> str:
    head = f"# Made by `redkeep secrets env --{kind}`. Literal values: keep it at mode 0600, out of git.\n"
    lines = [*(f"{name}={value}" for name, value in values.items()), *(f"# {note}" for note in notes)]
    return head + "".join(f"{line}\n" for line in lines)
