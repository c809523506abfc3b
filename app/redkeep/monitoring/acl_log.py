"""The server's ACL LOG: read into values, and kept book of, so that no refusal is counted twice or never.

The log is a list of at most `acllog-max-len` entries, the latest change first. A refusal that equals one of the first ten
(reason, context, object, user) within 60 seconds only raises that entry's count and brings it to the head (Redis, acl.c,
`addACLLogEntry`). So what is new is not the entries but the growth of their counts. From Redis 7.2 an entry has an id;
before, one is recognised by what does not change while it is left alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from redkeep.errors import ServerUnavailableError
from redkeep.monitoring.probes import MONITOR, PROBE_NAME, PROBED_CONTEXT, PROBED_OBJECTS, PROBED_USER_OBJECT
from redkeep.monitoring.server_report import client_of
from redkeep.monitoring.words import harmless

Reason = Literal["auth", "command", "key", "channel"]
_REASONS: Final[tuple[Reason, ...]] = ("auth", "command", "key", "channel")
_KEPT: Final = 4_096
"""Entries remembered: four times the `acllog-max-len` that Redkeep sets."""

_SCANNED: Final = 10
"""Entries the server looks at, from the head, for one to count up."""

_PROBES_AT_ONCE: Final = 8
"""A run of the posture is refused each thing once, and few run within one look; more in its name is somebody else."""


class Denial(NamedTuple):
    """One entry of the log. `times` refusals alike, the last of them `age` seconds ago, by a client of `address`.

    `user` is the name that was tried, chosen by whoever tried it; `client_user` who that client was logged in as.
    """

    reason: Reason
    context: str
    user: str
    object: str
    address: str
    client_user: str
    client_name: str
    times: int
    age: float
    identity: str
    kind: str

    @property
    def by_probe(self) -> bool:
        """Whether this is what our own posture tries: its commands, its user that does not exist, `default` that is off, and
        a wrong password for the user that it is logged in as; as monitor, for the others.

        A name proves nothing; but none of these attempts can harm where it is refused, and a login of a real user is among
        them only when whoever tries it is that user already, or monitor, whose own eyes these are.
        """
        if self.reason == "auth":
            own = self.client_name == PROBE_NAME and self.user in ("default", self.client_user)
            named = self.user == PROBE_NAME or self.client_user == MONITOR or own
            return named and self.object == PROBED_USER_OBJECT
        return (self.client_name, self.context) == (PROBE_NAME, PROBED_CONTEXT) and self.object.lower() in PROBED_OBJECTS


def parse_acl_log(reply: object) -> list[Denial]:
    """The entries of ACL LOG, in the server's order. Raises ServerUnavailableError for a reply that is none."""
    if not isinstance(reply, Sequence) or isinstance(reply, str | bytes):
        raise ServerUnavailableError("ACL LOG: the reply is not a list; check what listens on this port")
    return [_denial(entry) for entry in reply]


def _denial(entry: object) -> Denial:
    if not isinstance(entry, Sequence) or isinstance(entry, str | bytes) or len(entry) % 2:
        raise ServerUnavailableError("ACL LOG: an entry is not a list of pairs; check what listens on this port")
    fields = {_text(name): value for name, value in zip(entry[::2], entry[1::2], strict=True)}
    reason, context, what, user, info = (_raw(fields.get(n)) for n in ("reason", "context", "object", "username", "client-info"))
    client = client_of(info.decode("utf-8", "replace").strip())
    kind = _digest(reason, context, what, user)
    number = fields.get("entry-id")
    count = fields.get("count")
    named = reason.decode("ascii", "replace")
    return Denial(
        reason=next((each for each in _REASONS if each == named), "command"),
        context=harmless(context),
        user=harmless(user),
        object=harmless(what),
        address=client.address,
        client_user=client.user,
        client_name=client.name,
        times=count if isinstance(count, int) else 1,
        age=_seconds(fields.get("age-seconds")),
        identity=f"#{number}" if isinstance(number, int) else _digest(reason, context, what, user, info),
        kind=kind,
    )


def first_entries(most: int) -> int:
    """How many entries to ask for, from the head, so that all are there that `most` refusals can have made or changed, and
    those among which an unchanged one can be (each refusal brings at most one entry before it)."""
    return _SCANNED + 2 * most


class AclBook:
    """What has been counted of one server's log."""

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        """`saved` is what `snapshot` gave. Raises ValueError when it is something else."""
        # Identity and count of each entry, the latest change last; two may be equal in everything.
        self._seen: list[tuple[str, str, int]] = []
        for row in (saved or {}).get("entries", ()):
            identity, kind, count = row
            if not (isinstance(identity, str) and isinstance(kind, str) and isinstance(count, int)):
                raise ValueError("not an entry")
            self._seen.append((identity, kind, count))

    def snapshot(self) -> dict[str, Any]:
        """The book as plain data."""
        return {"entries": [list(row) for row in self._seen]}

    def clear(self) -> None:
        """Forget everything: the server has started anew, and its log with it."""
        self._seen.clear()

    def enter(self, entries: Sequence[Denial], *, most: int = _KEPT) -> list[tuple[Denial, int]]:
        """Note the first entries of the log; returns those that are new or grew, and by how much, oldest first.

        `most` is how many refusals there can have been since the last look: `entries` are then at least the first
        `first_entries(most)` of the log, or all of it.
        """
        seen = Counter(self._seen)
        fresh: list[Denial] = []
        for entry in entries:
            row = (entry.identity, entry.kind, entry.times)
            if seen[row]:
                seen[row] -= 1
            else:
                fresh.append(entry)
        fresh.reverse()
        there = Counter((entry.identity, entry.kind, entry.times) for entry in entries)
        found = []
        for entry in fresh:
            before = self._before(entry, there, most)
            if before is not None:
                self._seen.remove(before)
            growth = entry.times - (before[2] if before else 0)
            found.append((entry, growth))
        self._seen += [(entry.identity, entry.kind, entry.times) for entry in fresh]
        del self._seen[:-_KEPT]
        return [(entry, growth) for entry, growth in found if growth > 0]

    def _before(self, entry: Denial, there: Counter[tuple[str, str, int]], most: int) -> tuple[str, str, int] | None:
        """What we know of the entry that has become `entry`; None when it is a new one.

        Without ids only the latest of its kind can have grown, because the server looks for it from the head, and only when
        it was near the head.
        """
        if entry.identity.startswith("#"):
            return next((row for row in reversed(self._seen) if row[0] == entry.identity), None)
        near = self._seen[-(_SCANNED + most) :]
        latest = next((row for row in reversed(near) if row[1] == entry.kind), None)
        if latest is None or latest[2] >= entry.times or there[latest]:
            return None
        return latest


def split_probes(changes: Iterable[tuple[Denial, int]]) -> tuple[list[tuple[Denial, int]], int]:
    """What others were refused, and how many refusals were those that the posture provokes."""
    others, probes = [], 0
    for denial, growth in changes:
        own = min(growth, _PROBES_AT_ONCE) if denial.by_probe else 0
        probes += own
        if growth > own:
            others.append((denial, growth - own))
    return others, probes


def _digest(*parts: bytes) -> str:
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.blake2b(joined, digest_size=8).hexdigest()


def _raw(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode()


def _text(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _seconds(value: object) -> float:
    try:
        return max(0.0, float(_text(value)))
    except ValueError:
        return 0.0
