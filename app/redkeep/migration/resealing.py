"""What becomes of one entry: where it belongs under the current key, sealed anew with the time it has left. Nothing connects here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from redkeep.cache.codec import Codec
from redkeep.cache.compression import Preset, unpack
from redkeep.cache.epochs import Epochs
from redkeep.cache.keys import HashedNames, is_hashed_name, operation_of
from redkeep.cache.origin import Origin, split_origin
from redkeep.cache.response import without_proof
from redkeep.crypto.envelope import expiry_of, is_envelope, is_sealed_with, read_header, seal, unseal
from redkeep.crypto.keyring import KeyRing
from redkeep.errors import DecryptionError

Kind = Literal["readable", "older key", "returned"]
Verdict = Literal["current", "invalidated", "expired", "unreadable", "without an old name", "later"]

NO_END: Final = -1
"""What PTTL says of a key that stays."""


@dataclass(frozen=True, slots=True)
class Move:
    """From one name to another: what is stored there, for how many milliseconds (0: without end), and what it must open to."""

    kind: Kind
    target: str
    stored: bytes
    milliseconds: int
    plain: bytes
    overwrites: bool = False
    """Whether it counts more than what lies at the target."""
    alias: bool = False
    """Whether the target is one that clients ask at only when they are told that there are such."""


class Resealer:
    """Plans for one namespace. The epochs must be known for `operation_of` each name."""

    def __init__(
        self, keys: tuple[str, ...], namespace: str, epochs: Epochs, *, compression: Preset = "none", reverse: bool = False
    ) -> None:
        """`keys` as in the settings, the sealing one first; `reverse` plans the way back to readable names and plain JSON."""
        self.ring = KeyRing.from_strings(keys)
        self._namespace = namespace
        self._epochs = epochs
        self._reverse = reverse
        self._names = HashedNames(self.ring, namespace)
        self._codec = Codec(ring=self.ring, namespace=namespace, compression=compression, fernet_keys=keys)

    def concerns(self, name: str, header: bytes) -> bool:
        """Whether an entry is to be looked at as a whole, from its name and the first bytes of its value."""
        if not is_hashed_name(name):
            return not self._reverse
        return self._reverse or not is_sealed_with(header, self.ring.primary)

    def plan(self, name: str, stored: bytes, left: int, *, now_ms: int, last: bool) -> Move | Verdict:
        """What to do with `stored` under `name`, which has `left` milliseconds to live.

        `last` says that what was left for later is due now.
        """
        if not is_hashed_name(name):
            return "current" if self._reverse else self._seal_readable(name, stored, left, now_ms)
        try:
            opened = unseal(stored, key=name, ring=self.ring, namespace=self._namespace, clock=lambda: 0.0)
            origin, packed = split_origin(opened)
        except DecryptionError:
            return "unreadable"
        until = expiry_of(stored)
        if until and until <= now_ms:
            return "expired"
        place = self._place(name, origin)
        if place is None:
            return "invalidated"
        if self._reverse:
            if not origin.readable:
                return "without an old name"
            if place == "alias" and not last:  # what was asked for since counts more
                return "later"
            return self._give_back(origin.readable, packed, left, until, now_ms)
        if read_header(stored).key_id == self.ring.primary.key_id:
            return "current"
        target = name if place == "own" else self._name_anew(name, origin, place)
        stored = seal(opened, key=target, ring=self.ring, namespace=self._namespace, expires_at_ms=until)
        return Move("older key", target, stored, _milliseconds(left, until, now_ms), opened, target == name, place == "alias")

    def opens_to(self, move: Move, stored: bytes) -> bool:
        """Whether what lies at the target gives the value that was moved there."""
        if move.kind == "returned":
            return stored == move.plain
        try:
            return unseal(stored, key=move.target, ring=self.ring, namespace=self._namespace) == move.plain
        except DecryptionError:
            return False

    def _place(self, name: str, origin: Origin) -> Literal["request", "alias", "own"] | None:
        """Which part of the origin the name was made from; None when that was under epochs of before."""
        operation = operation_of(name)
        tag = self._epochs.tag(operation)
        if origin.request and name in self._names.under_each_key(operation, origin.request, epochs=tag):
            return "request"
        if origin.readable and name in self._names.under_each_key(operation, self._names.readable(origin.readable), epochs=tag):
            return "alias"
        return None if origin.request or origin.readable else "own"

    def _name_anew(self, name: str, origin: Origin, place: str) -> str:
        operation = operation_of(name)
        what = origin.request if place == "request" else self._names.readable(origin.readable)
        return self._names.under_each_key(operation, what, epochs=self._epochs.tag(operation))[0]

    def _seal_readable(self, name: str, stored: bytes, left: int, now_ms: int) -> Move | Verdict:
        operation = operation_of(name)
        if not self._epochs.untouched(operation):
            return "invalidated"
        if is_envelope(stored):  # nothing of ours is sealed for such a name
            return "unreadable"
        try:
            payload = self._codec.dump(self._codec.read(stored, name=name, read_pickles=True), field="value")
        except (DecryptionError, TypeError, ValueError):
            return "unreadable"
        origin = Origin(readable=name)
        alias = self._names.under_each_key(operation, self._names.readable(name), epochs=self._epochs.tag(operation))[0]
        until = now_ms + left if left > 0 else 0
        sealed = self._codec.seal(payload, name=alias, expires_at_ms=until, origin=origin.encode())
        plain = unseal(sealed, key=alias, ring=self.ring, namespace=self._namespace, clock=lambda: 0.0)
        # whoever reads asks at the readable name before the alias, so what is there counts more
        return Move("readable", alias, sealed, max(0, left), plain, overwrites=True, alias=True)

    def _give_back(self, readable: str, packed: bytes, left: int, until: int, now_ms: int) -> Move | Verdict:
        try:
            payload = self._codec.dump(without_proof(self._codec.parse(unpack(packed, limit=self._codec.limit))), field="value")
        except (DecryptionError, TypeError, ValueError):
            return "unreadable"
        return Move("returned", readable, payload, _milliseconds(left, until, now_ms), payload)


def _milliseconds(left: int, until: int, now_ms: int) -> int:
    """The time that is left by the server's word and by what was sealed, whichever ends first; 0 for no end."""
    times = [each for each in (left, until - now_ms if until else 0) if each > 0]
    return min(times, default=0)
