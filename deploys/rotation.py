"""A rotation: the new beside the old, then the new alone. The secrets hold its state, so that a run that died is gone on with.

Each kind says what it does to the secrets; the order of the steps is deploys/rotate.py's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from deploys.bundle import Bundle
from deploys.credentials import USERS, label, open_store
from deploys.rendering import ROOT
from redkeep.cli.secrets import API_NAME
from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError

KINDS = ("passwords", "certificates", "ca", "encryption-key", "api-key")

QUIET_MINUTES = 10
"""How long nobody may have used the old API key before it goes: longer than a scrape or a dashboard's refresh, by far."""


def show_api_key(secrets: Path) -> str:
    """The command that prints the API key, as it is typed in the project's folder."""
    folder = secrets.relative_to(ROOT) if secrets.is_relative_to(ROOT) else secrets
    return f".venv/bin/redkeep secrets show --secrets {folder} --reveal api"


@dataclass
class Rotation:
    """One run's rotation, shared by all its hosts. ``users`` are those whose sessions may rest on what goes; ``switched``
    says, by host, since when its app has the new credentials, and ``begun_at`` since when there are any (monotonic seconds). The old
    API key goes after ``quiet`` minutes without use. ``continued`` says whether an earlier run has made the new secret."""

    what: str
    users: tuple[str, ...]
    force: bool
    secrets: Path
    quiet: int = QUIET_MINUTES
    continued: bool = False
    steps: set[str] = field(default_factory=set)
    taking: Lock = field(default_factory=Lock)
    begun_at: float = field(default_factory=time.monotonic)
    switched: dict[str, float] = field(default_factory=dict)
    asked: dict[tuple[str, ...], str] = field(default_factory=dict)
    sweeping: dict[str, Lock] = field(default_factory=dict)

    @property
    def thing(self) -> str:
        """What is rotated, as a refusal calls it."""
        if self.what in ("certificates", "ca"):
            return "certificate"
        return self.what.removesuffix("s").replace("-", " ").replace("api", "API")

    @property
    def retires(self) -> bool:
        """Whether what was before is taken away. A certificate is good until its last day: nothing revokes it but a new CA."""
        return self.what != "certificates"

    @property
    def advances(self) -> bool:
        """Whether there is a step in between: everybody knows the new, and only then is it used."""
        return self.what in ("ca", "encryption-key")

    @property
    def ends_sessions(self) -> bool:
        """Whether a session can rest on what goes."""
        return self.what in ("passwords", "ca")

    def done(self) -> str:
        """What was reached, in one sentence; and when the new secret is older than this run, who should run it again."""
        if self.continued:
            return f"{self._reached()}. An earlier run made the new one: if that has leaked, too, run the same command once more"
        return self._reached()

    def _reached(self) -> str:
        if self.what == "passwords":
            return f"the passwords of {', '.join(self.users)} are new, and the old ones are removed"
        if self.what == "encryption-key":
            rest = "any entry that needed an older one is given up" if self.force else "every entry is encrypted with it"
            return f"only the new encryption key is left, and {rest}"
        if self.what == "api-key":
            return f"only the new API key is left: `{show_api_key(self.secrets)}` shows it"
        if self.what == "ca":
            return "only the new CA is trusted, and it issued every certificate"
        return "every certificate is new; the old ones stay valid until they expire: after a theft, rotate what=ca"

    def plan(self) -> str:
        """What a run would do, in one sentence."""
        if self.what == "passwords":
            verb = "continue the rotation of" if self._is_open() else "make new passwords for"
            return (
                f"{verb} {', '.join(self.users)}, valid beside the old; give them to the app hosts; stop while older sessions "
                f"exist{' (skipped by force=yes)' if self.force else ''}; then remove the old and end the sessions that are left"
            )
        if self.what == "certificates":
            return "issue every certificate of these hosts again and install them; the old ones stay valid until they expire"
        if self.what == "encryption-key":
            verb = (
                "continue with the encryption key already made"
                if self._is_open()
                else "make a new encryption key with which every app can decrypt"
            )
            return (
                f"{verb}; encrypt with it; re-encrypt every entry beside live traffic; stop while an entry needs the "
                f"old key{' (skipped by force=yes)' if self.force else ''}; then delete the old key"
            )
        if self.what == "api-key":
            verb = "continue with the API key already made" if self._is_open() else "make a new API key, valid beside the old"
            wait = "" if self.force else f"; stop until nobody has used the old one for {self.quiet} minutes"
            return f"{verb}; give it to the hosts that serve the API{wait}; then remove the old one"
        verb = "continue with the CA already made" if self._is_open() else "make a new CA, trusted beside the old"
        return (
            f"{verb}; issue every certificate from it; stop while older sessions "
            f"exist{' (skipped by force=yes)' if self.force else ''}; then trust only the new CA and end the sessions that are left"
        )

    def refusal(self, *, concerned: Sequence[str], left_out: Sequence[str], together: bool) -> str:
        """Why a run must not do this, in a sentence: what goes is every host's, so that all of them take each step before the next.
        ``concerned`` are the inventory's hosts, ``left_out`` those that are not part of the run; ``together`` says whether its
        hosts wait for each other, and it ends when one fails."""
        if not self.retires:
            return ""
        if left_out:
            return (
                f"All hosts share the {self.thing}, and the old one stops working afterwards, but this run leaves out "
                f"{', '.join(left_out)}: run it without --limit and --exclude."
            )
        if len(concerned) > 1 and not together:
            return (
                "All hosts must finish each step of a rotation before the next, and all stop when one fails: run it without --serial, "
                "--no-wait and --fail-percent."
            )
        return ""

    def reseals(self, app: Bundle) -> bool:
        """Whether this app host is the one that seals the entries of its namespace on its Redis anew: the first of this run to ask.
        By the server's name, as each pair of a Redis and an app on one host has the same address, 127.0.0.1."""
        return self._first(app, "seal", app.knobs.cache_namespace)

    def counts(self, app: Bundle) -> bool:
        """Whether this app host is the one that counts what an old key still seals on its Redis, in whichever namespace."""
        return self._first(app, "count")

    def _first(self, app: Bundle, *what: str) -> bool:
        return self.asked.setdefault((app.server, *what), app.name) == app.name

    @contextmanager
    def alone_on(self, server: str) -> Iterator[None]:
        """One app host at a time works on the entries of a Redis: each keeps the rate that others there do not feel."""
        with self.sweeping.setdefault(server, Lock()):
            yield

    def begin(self, hosts: frozenset[str]) -> None:
        """Put the new beside the old in the secrets; what an earlier run has begun is left as it is."""
        with self._step("begin") as first:
            if not first:
                return
            store = open_store(self.secrets)
            with store.transaction():
                self.continued = self._is_open()
                if self.what == "passwords" and not _open_users(store):
                    for user in self.users:
                        store.rotate_password(user)
                elif self.what == "certificates":
                    for name in _leaves_of(store, hosts):
                        store.renew(name)
                elif self.what == "ca" and not _two_authorities(store):
                    store.add_authority()
                elif self.what == "api-key" and len(store.passwords(API_NAME)) < 2:
                    store.rotate_password(API_NAME)
                elif self.what == "encryption-key" and len(store.encryption_keys()) < 2:
                    store.add_encryption_key(sealing=False)
            if self.what == "passwords":
                self.begun_at = time.monotonic() - store.password_age(self.users[0])

    def advance(self) -> None:
        """For a CA that every host trusts by now: let it issue every certificate; for a key that every app has: let it seal."""
        with self._step("advance") as first:
            if not first:
                return
            store = open_store(self.secrets)
            with store.transaction():
                for name in store.old_leaves() if self.what == "ca" else ():
                    store.reissue(name)
                if self.what == "encryption-key":
                    store.promote_encryption_key(store.newest_encryption_key())

    def finish(self) -> None:
        """Forget the old. No host knows it any more."""
        with self._step("finish") as first:
            if not first:
                return
            store = open_store(self.secrets)
            with store.transaction():
                if self.what == "passwords":
                    for user in self.users:
                        store.retire_password(user)
                elif self.what == "api-key":
                    store.retire_password(API_NAME)
                elif self.what == "ca":
                    store.retire_authorities()
                elif self.what == "encryption-key":
                    store.retire_encryption_keys()

    @contextmanager
    def _step(self, name: str) -> Iterator[bool]:
        """Whether this host is the first of its run to take the step; the others wait until it is taken."""
        with self.taking:
            yield name not in self.steps
            self.steps.add(name)

    def _is_open(self) -> bool:
        store = open_store(self.secrets)
        if self.what == "certificates":
            return False
        if self.what == "encryption-key":
            return len(store.encryption_keys()) > 1
        if self.what == "api-key":
            return len(store.passwords(API_NAME)) > 1
        return bool(_open_users(store)) if self.what == "passwords" else _two_authorities(store)


def choose(data: Mapping[str, Any], secrets: Path) -> Rotation:
    """The rotation that the caller's ``--data`` asks for. Raises ConfigurationError and SecretStoreError."""
    what, force = str(data.get("what") or ""), str(data.get("force") or "no")
    if what not in KINDS:
        said = f"what={what} is unknown" if what else "what is missing"
        raise ConfigurationError(f"Say what to rotate: --data what={'|'.join(KINDS)} ({said}).")
    if force not in ("yes", "no"):
        raise ConfigurationError(f"force={force} must be yes or no.")
    asked = [name.strip() for name in str(data.get("users") or "").split(",") if name.strip()]
    if asked and what != "passwords":
        raise ConfigurationError(f"users is only for what=passwords: a rotation of {what} affects every user.")
    for name in asked:
        if name not in USERS:
            raise ConfigurationError(f"There is no user {name}: the users are {', '.join(USERS)}.")
    quiet = str(data.get("quiet") or QUIET_MINUTES)
    if not (quiet.isascii() and quiet.isdigit() and int(quiet) <= 10_080):
        raise ConfigurationError(f"quiet={quiet} is not a number of minutes: give one from 0 to 10080 (a week).")
    if data.get("quiet") and what != "api-key":
        raise ConfigurationError(f"quiet is only for what=api-key: a rotation of {what} checks who is connected.")
    if what == "api-key" and API_NAME not in open_store(secrets).users():
        raise ConfigurationError("There is no API key yet: a deploy with the knob api_enabled creates it.")
    users = tuple(asked) or USERS
    found = _open_users(open_store(secrets)) if what == "passwords" else ()
    if other := [name for name in asked if found and name not in found]:
        raise ConfigurationError(
            f"A rotation of {', '.join(found)} is unfinished: finish it first, without users=; then rotate {', '.join(other)}."
        )
    concerned = {"encryption-key": ("cache_service",), "api-key": ()}.get(what, found or users)
    return Rotation(what, concerned, force == "yes", secrets, quiet=int(quiet))


@cache
def open_rotation(secrets: Path, data: tuple[tuple[str, str], ...]) -> Rotation:
    """The same rotation for every host of a run. ``data`` is that of the command line. Raises as ``choose`` does."""
    return choose(dict(data), secrets)


def _open_users(store: SecretStore) -> tuple[str, ...]:
    return tuple(user for user in USERS if user in store.users() and len(store.password_hashes(user)) > 1)


def _two_authorities(store: SecretStore) -> bool:
    return store.trust_bundle().count(b"BEGIN CERTIFICATE") > 1


def _leaves_of(store: SecretStore, hosts: frozenset[str]) -> list[str]:
    return [name for name in store.leaves() if name in {label(name.partition("@")[0], host) for host in hosts}]
