"""A million seals and no nonce twice, also across fork: `python -m tests.soak.seals`. Prints the figures; ends with 1 on a repeat.

Some values are sealed before the fork, so that nonces are in store when the processes part; then parent and children each seal
their share, at the same time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from redkeep.crypto.envelope import read_header, seal
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.crypto.nonces import NONCE_BYTES

BEFORE_FORK = 1_000


def main(arguments: list[str] | None = None) -> int:
    """Seal, compare, print; 0 when no nonce came twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.seals", description=__doc__)
    parser.add_argument("--seals", type=int, default=1_000_000)
    parser.add_argument("--children", type=int, default=4)
    given = parser.parse_args(arguments)
    start = time.perf_counter()
    total, repeated, processes = count_repeats(given.seals, given.children)
    seconds = time.perf_counter() - start
    print(f"{total} seals in {processes} processes, {repeated} repeated nonces, {seconds:.1f} s")
    return 1 if repeated else 0


def count_repeats(seals: int, children: int) -> tuple[int, int, int]:
    """How many values were sealed, how many nonces came more than once, and in how many processes."""
    ring = KeyRing.from_strings([generate_key()])
    nonces = _seal(ring, min(BEFORE_FORK, seals))
    shares = [(seals - BEFORE_FORK) // (children + 1)] * children if seals > BEFORE_FORK else []
    reading = [_in_child(ring, share) for share in shares]
    nonces += _seal(ring, max(0, seals - BEFORE_FORK - sum(shares)))
    for process, end in reading:
        with os.fdopen(end, "rb") as pipe:
            nonces += pipe.read()
        if os.waitpid(process, 0)[1]:
            raise RuntimeError("a child did not seal its share")
    found = [nonces[start : start + NONCE_BYTES] for start in range(0, len(nonces), NONCE_BYTES)]
    return len(found), len(found) - len(set(found)), len(shares) + 1


def _in_child(ring: KeyRing, seals: int) -> tuple[int, int]:
    """Seal in a forked process; its id, and where its nonces can be read."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    code = 1
    try:
        os.close(reading)
        made = _seal(ring, seals)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(made)
        code = 0
    finally:
        os._exit(code)


def _seal(ring: KeyRing, seals: int) -> bytes:
    """The nonces of that many envelopes, one behind the other."""
    return b"".join(read_header(seal(b"value", key="ai_cache:key", ring=ring)).nonce for _ in range(seals))


if __name__ == "__main__":
    sys.exit(main())
