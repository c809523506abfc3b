"""The sealed round trip: one value through the real encryption and the real server, and a look at what lies there."""

from __future__ import annotations

import os
import time
from typing import Final

from redkeep.errors import DecryptionError
from redkeep.monitoring.control import Control
from redkeep.monitoring.wire import Refusal, Wire
from redkeep.target import Target

KEY_PREFIX: Final = "ai_cache:redkeep:selftest:"
SECONDS: Final = 60
"""The key goes by itself when the probe is killed before it deletes it."""

_TRIES: Final = 48
"""Random keys to try on a cluster node until it owns one: with ten shards, 0.9^48 = 0.6 % find none."""

NAME: Final = "sealed round trip"
REPLICA: Final = "could not write: this server is a replica"
_DISTRUST: Final = "do not use this cache; reinstall redkeep"


def sealed_round_trip(wire: Wire, target: Target) -> Control:
    """Seal, SET, GET and open a random text as the cache user, on an open and logged-in `wire`; then delete it.

    Weak when no encryption key is configured, when the bytes in Redis show the text, or when they do not open or open
    under another key name. May raise OSError.
    """
    if not target.keys:
        return Control(NAME, "weak", "values would be stored readable in Redis", "set REDIS_ENCRYPTION_KEY")
    from redkeep.crypto.envelope import read_header, seal, unseal  # here: it loads the cipher
    from redkeep.crypto.keyring import KeyRing

    ring = KeyRing.from_strings(target.keys)
    text = f"redkeep selftest {os.urandom(16).hex()}".encode()
    for _ in range(_TRIES):
        key = KEY_PREFIX + os.urandom(8).hex()
        expires = int((time.time() + SECONDS) * 1000)
        sealed = seal(text, key=key, ring=ring, namespace=target.namespace, expires_at_ms=expires)
        answer = wire.ask(("SET", key, sealed, "EX", str(SECONDS)))[0]
        if not (isinstance(answer, Refusal) and answer.code == "MOVED"):
            break
    if answer != "OK":
        code = answer.code if isinstance(answer, Refusal) else "not OK"
        reason = {
            "READONLY": REPLICA.partition(": ")[2], "MOVED": "no key that belongs to this cluster node was found",
            "OOM": "the server is out of memory", "MASTERDOWN": "this replica has lost its primary",
            "CLUSTERDOWN": "the cluster is down", "LOADING": "the server is still loading",
        }.get(code)
        if reason:
            return Control(NAME, "unknown", f"could not write: {reason}")
        return Control(NAME, "weak", f"the cache user cannot write its own keys: {answer}", "deploy again: it resets the users")
    stored = wire.ask(("GET", key), ("UNLINK", key))[0]
    if not isinstance(stored, bytes):
        return Control(NAME, "unknown", "the value disappeared before it could be read back")
    try:
        header = read_header(stored)
        opened = unseal(stored, key=key, ring=ring, namespace=target.namespace)
    except DecryptionError as error:
        return Control(NAME, "weak", f"the value read back does not decrypt: {error}", "find out who else writes to this Redis")
    if text in stored or opened != text or header.key_id != ring.primary.key_id:
        return Control(NAME, "weak", "the stored bytes are not encrypted as they should be", _DISTRUST)
    try:
        unseal(stored, key=f"{key}:moved", ring=ring, namespace=target.namespace)
    except DecryptionError:
        return Control(NAME, "ok", f"AES-256-GCM, key {header.key_id.hex()}, bound to its key name")
    return Control(NAME, "weak", "a value decrypts under another key's name", _DISTRUST)
