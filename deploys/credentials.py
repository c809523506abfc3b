"""The operator's secrets, as the deploy of one environment needs them."""

from __future__ import annotations

import copy
import hashlib
import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from deploys.rendering import ROOT
from redkeep.cli.passphrase import passphrase_from_environment
from redkeep.cli.secrets import API_NAME
from redkeep.crypto.keyring import KeyRing, decode_key
from redkeep.crypto.leaf import Use
from redkeep.crypto.passwords import validate_password
from redkeep.crypto.pki import Leaf, check_leaf
from redkeep.crypto.store import SecretStore
from redkeep.errors import CertificateError

# Every user that has a password. `default` has none: it is off.
USERS = (
    "operator",
    "cache_service",
    "cache_janitor",
    "health_service",
    "health_check",
    "monitor",
    "exporter",
    "replica",
    "sentinel",
    "backup",
)


class Credentials:
    """Passwords, keys and certificates of one environment, made when first asked for and kept since."""

    def __init__(self, store: SecretStore, renew_days: int) -> None:
        self._store = store
        self._renew_days = renew_days
        self._leaves: dict[tuple[str, tuple[str, ...]], Leaf] = {}
        self._older_api_key = True
        with store.transaction():
            self._passwords = {user: store.password(user) for user in USERS}
            self.hashes = {user: store.password_hashes(user) for user in USERS}
            self.encryption_keys = store.encryption_keys()
            store.authority()
        # A file edited by hand may hold what would add lines to the files it is written to.
        for user, password in self._passwords.items():
            validate_password(password, field=f"the password of {user}")
        for key in self.encryption_keys:
            decode_key(key, field="an encryption key of the secrets")
        self.trust_bundle = store.trust_bundle()
        self._opened = self._state()

    def _state(self) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...], bytes]:
        known = self._store.users()
        passwords = {user: self._store.passwords(user) for user in (*USERS, API_NAME) if user in known}
        return passwords, self._store.encryption_keys(), self._store.trust_bundle()

    def outdated(self) -> bool:
        """Whether another run has changed passwords, keys or authorities since these were opened. Raises SecretStoreError."""
        with self._store.transaction():
            passwords, *others = self._state()
        opened, *before = self._opened
        # What this very run has made meanwhile, the API's key, is no change.
        return others != before or any(passwords.get(user) != values for user, values in opened.items())

    def newest_passwords(self) -> Credentials:
        """These without the passwords that a rotation is about to retire."""
        narrowed = copy.copy(self)
        narrowed.hashes = {user: hashes[:1] for user, hashes in self.hashes.items()}
        return narrowed

    def newest_authority(self) -> Credentials:
        """These without the authorities that a rotation is about to retire."""
        narrowed = copy.copy(self)
        narrowed.trust_bundle, narrowed._leaves = self._store.authority().cert_pem, {}
        return narrowed

    def newest_key(self) -> Credentials:
        """These without the encryption keys that a rotation is about to retire."""
        narrowed = copy.copy(self)
        narrowed.encryption_keys = self.encryption_keys[:1]
        return narrowed

    def open_rotations(self) -> tuple[str, ...]:
        """A sentence for each rotation that was begun and not ended."""
        users = [user for user, hashes in self.hashes.items() if len(hashes) > 1]
        found = []
        if users:
            found.append(
                f"a rotation of passwords is unfinished, old and new are valid for {', '.join(users)}: "
                "finish it with deploys/rotate.py --data what=passwords"
            )
        if self.trust_bundle.count(b"BEGIN CERTIFICATE") > 1:
            found.append("a rotation of the CA is unfinished, two are trusted: finish it with deploys/rotate.py --data what=ca")
        if len(self.encryption_keys) > 1:
            found.append(
                f"a rotation of the encryption key is unfinished, {len(self.encryption_keys)} keys are in use: "
                "finish it with deploys/rotate.py --data what=encryption-key"
            )
        if API_NAME in self._store.users() and len(self._store.passwords(API_NAME)) > 1:
            found.append(
                "a rotation of the API key is unfinished, two are valid: finish it with deploys/rotate.py --data what=api-key"
            )
        return tuple(found)

    def password(self, user: str) -> str:
        return self._passwords[user]

    def api_key(self) -> str:
        """The key of the API, made when an API is first served. It opens no Redis."""
        return self._store.password(API_NAME)

    def older_api_key(self) -> str:
        """The one before, while a rotation lasts; else nothing."""
        return "".join(self._store.passwords(API_NAME)[1:]) if self._older_api_key else ""

    def newest_api_key(self) -> Credentials:
        """These without the key of the API that a rotation is about to retire."""
        narrowed = copy.copy(self)
        narrowed._older_api_key = False
        return narrowed

    def server(self, host: str, names: Sequence[str]) -> Leaf:
        """The certificate of the Redis on that host, good for exactly these names and addresses."""
        return self._leaf(label("server", host), names, "server")

    def api_server(self, host: str) -> Leaf:
        """The certificate of the API in that host's container, good for the names by which the host and its dashboard ask."""
        return self._leaf(label("api-server", host), ["127.0.0.1", "api", "localhost"], "server")

    def client(self, service: str, host: str) -> Leaf:
        """The certificate by which one service on one host shows itself to Redis."""
        return self._leaf(label(service, host), [f"{service}.redkeep"], "client")

    def _leaf(self, name: str, names: Sequence[str], use: Use) -> Leaf:
        if (known := self._leaves.get((name, tuple(names)))) is not None:
            return known
        leaf = self._store.leaf(name, sorted(set(names)), use=use, renew_within_days=self._renew_days)
        try:
            check_leaf(leaf, trust=[self.trust_bundle], names=names, use=use)
        except CertificateError as error:
            folder = self._store.path
            raise CertificateError(f"the certificate {name} in {folder}: {error}") from None
        self._leaves[name, tuple(names)] = leaf
        return leaf


def key_ids(keys: Sequence[str]) -> tuple[str, ...]:
    """The ids by which people and stored values name encryption keys."""
    return tuple(key.key_id.hex() for key in KeyRing.from_strings(keys).keys) if keys else ()


def label(service: str, host: str) -> str:
    """The certificate's name in the store and its subject: at most the 64 characters X.509 allows a common name."""
    name = f"{service}@{re.sub('[^A-Za-z0-9._:-]+', '-', host.lstrip('@'))}"
    return name if len(name) <= 64 else f"{name[:47]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


# Kept until the run ends: each removes its folder then.
_throwaway: list[tempfile.TemporaryDirectory[str]] = []


@cache
def open_credentials(folder: Path, renew_days: int, *, keep: bool = True) -> Credentials:
    """Open, or make, the secrets in ``folder``. With ``keep`` false nothing is made there: a dry run, a status or a preflight
    of a new environment works with throwaway secrets.

    Raises SecretStoreError: loose modes, a wrong or missing passphrase, a damaged file.
    """
    if not keep and not (folder / "secrets.json").exists():
        _throwaway.append(tempfile.TemporaryDirectory(prefix="redkeep-dry-"))
        folder = Path(_throwaway[-1].name)
    return Credentials(SecretStore.open(folder, passphrase=passphrase_from_environment(), create=True), renew_days)


def open_store(folder: Path) -> SecretStore:
    """The secrets themselves, for a verb that changes them. Raises SecretStoreError when there are none."""
    return SecretStore.open(folder, passphrase=passphrase_from_environment())


def secrets_folder(environment: str) -> Path:
    """Where the secrets of an environment live on the operator's machine."""
    return ROOT / "secrets" / environment
