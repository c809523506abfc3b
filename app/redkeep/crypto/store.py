"""The operator's secrets: made once, kept in one private file, handed out by name.

    store = SecretStore.open(Path("secrets/local"), create=True)
    with store.transaction():                       # one write for all that is missing
        store.password_hashes("cache_service")
        store.leaf("redis-1", ["redis-1.internal", "10.0.0.5"], use="replication")

Reading what is there neither writes nor locks nor parses a certificate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from redkeep.crypto.document import Entry, LeafRecord, check_name, entries
from redkeep.crypto.leaf import Leaf, Use
from redkeep.crypto.names import canonical_names
from redkeep.crypto.passwords import generate_password, password_hash, validate_password
from redkeep.crypto.vault import Vault
from redkeep.errors import ConfigurationError, SecretStoreError

if TYPE_CHECKING:
    from redkeep.crypto.pki import Authority

RENEW_WITHIN_DAYS = 30
"""A third of a leaf's 89 days, as ACME clients do: two missed monthly runs still find it valid."""


class SecretStore(Vault):
    """The secrets of one environment. Each is made when first asked for and never silently remade.

    Outside a transaction every method that makes or changes something is a transaction of its own.
    """

    def users(self) -> tuple[str, ...]:
        """The users that have a password, in the order they were made."""
        return tuple(self._document["passwords"])

    def password(self, user: str) -> str:
        """Return the newest password of `user`; made and kept the first time."""
        return self._passwords(user)[0]

    def passwords(self, user: str) -> tuple[str, ...]:
        """Return the passwords of `user` to accept, newest first: one, or two in a rotation."""
        return tuple(self._passwords(user))

    def password_hashes(self, user: str) -> tuple[str, ...]:
        """Return the SHA-256 hashes of the passwords to accept, newest first: one, or two in a rotation."""
        return tuple(password_hash(value) for value in self._passwords(user))

    def password_age(self, user: str) -> float:
        """Return the seconds since the newest password of `user` was made, by this machine's clock; never below zero."""
        self._passwords(user)
        made = datetime.fromisoformat(self._document["passwords"][user]["made"])
        return max(0.0, (datetime.now(UTC) - made).total_seconds())

    def set_password(self, user: str, value: str) -> None:
        """Make `value` the only password of `user`. Raises ConfigurationError like `validate_password`."""
        validate_password(value, field=f"the password of {check_name(user)}")
        self._put_passwords(user, [value])

    def rotate_password(self, user: str) -> str:
        """Return a new password for `user`; the one before stays accepted until `retire_password`."""
        with self.transaction():
            fresh = generate_password()
            self._put_passwords(user, [fresh, self.password(user)])
            return fresh

    def retire_password(self, user: str) -> None:
        """End a rotation: only the newest password of `user` remains."""
        if len(self._passwords(user)) > 1:
            with self.transaction():
                self._put_passwords(user, [self.password(user)])

    def encryption_keys(self) -> tuple[str, ...]:
        """Return the key strings of the ring, the sealing one first; one is made the first time."""
        if not self._document["encryption_keys"]:
            with self.transaction():
                if not self._document["encryption_keys"]:
                    self.add_encryption_key()
        return tuple(record["key"] for record in self._document["encryption_keys"])

    def add_encryption_key(self, *, sealing: bool = True) -> str:
        """Add a new key and return it: as the sealing one, or last, so that all can open before one seals."""
        from redkeep.crypto.keyring import generate_key

        with self.transaction():
            ring = self._document["encryption_keys"]
            fresh = generate_key()
            ring.insert(0 if sealing else len(ring), {"key": fresh, "made": datetime.now(UTC).isoformat(timespec="microseconds")})
            return fresh

    def newest_encryption_key(self) -> str:
        """Return the key that was made last, whether it seals yet or not; one is made the first time."""
        self.encryption_keys()
        ring = self._document["encryption_keys"]
        return max(ring, key=lambda record: datetime.fromisoformat(record["made"]))["key"]

    def promote_encryption_key(self, key: str) -> None:
        """Make a key of the ring the sealing one. Raises ConfigurationError when it is not in the ring."""
        with self.transaction():
            ring = self._document["encryption_keys"]
            found = [record for record in ring if record["key"] == key]
            if not found:
                raise ConfigurationError("the key to promote is not in the ring; add it first")
            self._document["encryption_keys"] = found + [record for record in ring if record["key"] != key]

    def retire_encryption_keys(self, *, keep: int = 1) -> None:
        """Forget all but the first `keep` keys; what they sealed is unreadable from then on."""
        with self.transaction():
            del self._document["encryption_keys"][_at_least_one(keep) :]

    def backup_key(self) -> str:
        """Return the private key that opens the backups; made and kept the first time."""
        from redkeep.crypto.archive import generate_private_key

        if not self._document["backup_keys"]:
            with self.transaction():
                if not self._document["backup_keys"]:
                    self._document["backup_keys"].append({"key": generate_private_key(), "made": _now()})
        return self._document["backup_keys"][0]["key"]

    def authority(self) -> Authority:
        """Return the newest certificate authority; one is made the first time."""
        from redkeep.crypto.pki import Authority

        self._ensure_authority()
        newest = self._document["authorities"][0]
        return Authority.from_pem(newest["certificate"].encode(), newest["key"].encode())

    def trust_bundle(self) -> bytes:
        """Return the certificates of all authorities as PEM, newest first; one is made the first time."""
        self._ensure_authority()
        return "".join(record["certificate"] for record in self._document["authorities"]).encode()

    def add_authority(self) -> None:
        """Put a new authority beside the old: both are trusted, the new one signs from now on."""
        from redkeep.crypto.pki import Authority

        with self.transaction():
            known = self._document["authorities"]
            made = datetime.now(UTC)
            label = f"{self.path.resolve().name[:30]} {made:%Y-%m-%d}"
            authority = Authority.create(f"Redkeep CA {len(known) + 1} {label}")
            info = Leaf(authority.cert_pem, b"").info
            known.insert(
                0,
                {
                    "certificate": authority.cert_pem.decode("ascii"),
                    "key": authority.key_pem.decode("ascii"),
                    "made": _now(),
                    "not_after": info.not_after.isoformat(),
                    "fingerprint": info.fingerprint,
                },
            )

    def retire_authorities(self, *, keep: int = 1) -> int:
        """Forget all but the newest `keep` authorities and return how many went; their leaves are no longer trusted."""
        gone = len(self._document["authorities"]) - _at_least_one(keep)
        if gone <= 0:
            return 0
        with self.transaction():
            del self._document["authorities"][keep:]
        return gone

    def old_leaves(self) -> tuple[str, ...]:
        """The names of the leaves that the newest authority did not issue."""
        newest = self._ensure_authority()
        return tuple(name for name, record in self._document["leaves"].items() if record["authority"] != newest)

    def leaf(
        self,
        name: str,
        names: Sequence[str] = (),
        *,
        use: Use,
        renew_within_days: int = RENEW_WITHIN_DAYS,
        now: datetime | None = None,
    ) -> Leaf:
        """Return the leaf `name`, issued the first time by the newest authority.

        `names` are its subject alternative names; for servers and replication `name` itself when empty. It is
        issued again when they or `use` differ, or when it ends within `renew_within_days` of `now` (aware; by
        default the clock) - not for a newer authority, see `reissue`.

        Raises ConfigurationError for a malformed name, or a renewal window outside 0 to 88 days (a leaf of 89
        days would be issued again at every run).
        """
        if not 0 <= renew_within_days < 89:
            raise ConfigurationError("a leaf can be renewed 0 to 88 days before it expires")
        wanted = canonical_names(names) or (canonical_names([name]) if use != "client" else ())
        moment = datetime.now(UTC) if now is None else now
        soon = moment + timedelta(days=renew_within_days)
        if not self._fits(name, wanted, use, soon):
            with self.transaction():
                if not self._fits(name, wanted, use, soon):
                    self._issue(name, wanted, use, moment)
        return _leaf(self._document["leaves"][name])

    def leaves(self) -> Mapping[str, Leaf]:
        """Return all leaves by name."""
        return {name: _leaf(record) for name, record in self._document["leaves"].items()}

    def renew(self, name: str, *, now: datetime | None = None) -> Leaf:
        """Issue the leaf `name` again, same names and use. Raises SecretStoreError if there is none."""
        with self.transaction():
            record = self._known_leaf(name)
            use: Use = record["use"]  # type: ignore[assignment]
            self._issue(name, tuple(record["names"]), use, datetime.now(UTC) if now is None else now)
            return _leaf(self._document["leaves"][name])

    def reissue(self, name: str) -> Leaf:
        """Renew the leaf `name` if the newest authority did not issue it. Raises SecretStoreError if none."""
        record = self._known_leaf(name)
        if record["authority"] == self._ensure_authority():
            return _leaf(record)
        return self.renew(name)

    def entries(self) -> tuple[Entry, ...]:
        """Return what there is, for people: kinds, names, short fingerprints, dates; never a value."""
        return tuple(entries(self._document))

    def _passwords(self, user: str) -> list[str]:
        if user not in self._document["passwords"]:
            with self.transaction():
                if user not in self._document["passwords"]:
                    self._put_passwords(check_name(user), [generate_password()])
        return self._document["passwords"][user]["values"]

    def _put_passwords(self, user: str, values: list[str]) -> None:
        with self.transaction():
            held = self._document["passwords"].get(user)
            if held is None or held["values"] != values:
                same = held is not None and held["values"][0] == values[0]
                made = held["made"] if held is not None and same else _now()
                self._document["passwords"][user] = {"values": values, "made": made}

    def _ensure_authority(self) -> str:
        if not self._document["authorities"]:
            with self.transaction():
                if not self._document["authorities"]:
                    self.add_authority()
        return self._document["authorities"][0]["fingerprint"]

    def _known_leaf(self, name: str) -> LeafRecord:
        record = self._document["leaves"].get(name)
        if record is None:
            raise SecretStoreError(f"there is no certificate named {name[:70]!r}; see `redkeep certs list`")
        return record

    def _fits(self, name: str, wanted: tuple[str, ...], use: Use, soon: datetime) -> bool:
        record = self._document["leaves"].get(name)
        if record is None or set(record["names"]) != set(wanted) or record["use"] != use:
            return False
        ends = datetime.fromisoformat(record["not_after"])
        # An authority about to end cannot give a longer leaf: issuing one at every run would help nobody.
        newest = self._document["authorities"][:1]
        return ends > soon or bool(newest and datetime.fromisoformat(newest[0]["not_after"]) <= ends)

    def _issue(self, name: str, wanted: tuple[str, ...], use: Use, moment: datetime) -> None:
        fresh = self.authority().issue(wanted, use=use, common_name=check_name(name), now=moment)
        self._document["leaves"][name] = {
            "certificate": fresh.cert_pem.decode("ascii"),
            "key": fresh.key_pem.decode("ascii"),
            "made": _now(),
            "not_after": fresh.not_after.isoformat(),
            "fingerprint": fresh.fingerprint,
            "names": list(wanted),
            "use": use,
            "authority": self._ensure_authority(),
        }


def _leaf(record: LeafRecord) -> Leaf:
    return Leaf(record["certificate"].encode("ascii"), record["key"].encode("ascii"))


def _at_least_one(keep: int) -> int:
    if keep < 1:
        raise ConfigurationError("at least one must be kept")
    return keep


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
