"""Nonces: random, never repeated, cheap."""

from __future__ import annotations

import os
from collections import deque

NONCE_BYTES = 12
"""96 bits, the length GCM is specified for (NIST SP 800-38D section 8.2)."""

_BATCH = 256
_pool: deque[bytes] = deque()


def take_nonce() -> bytes:
    """Return 12 random bytes that no other caller, thread or forked process was or will be given.

    A system call for each nonce costs as much as half the encryption, so they are drawn 256 at a time.
    `deque.pop` is atomic, which makes this safe between threads without a lock; the pool is process-wide
    and emptied in the child after a fork, since parent and child would otherwise hand out the same ones.
    """
    try:
        return _pool.pop()
    except IndexError:
        pass
    fresh = os.urandom(NONCE_BYTES * _BATCH)
    _pool.extend(fresh[start : start + NONCE_BYTES] for start in range(NONCE_BYTES, len(fresh), NONCE_BYTES))
    return fresh[:NONCE_BYTES]


os.register_at_fork(after_in_child=_pool.clear)
