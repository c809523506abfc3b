"""The key ring: forms of keys, ids, counting, nonces."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import base64
import logging
import os
import pickle
import threading

import pytest
from cryptography.fernet import Fernet

from redkeep.crypto import keyring as module
from redkeep.crypto.envelope import read_header, seal, unseal
from redkeep.crypto.keyring import SEALS_ALLOWED, SEALS_WARNED, KeyRing, generate_key
from redkeep.crypto.nonces import take_nonce
from redkeep.errors import ConfigurationError


def test_generated_keys_are_fernet_keys() -> None:
    """Our key strings are valid for Fernet, and Fernet's for us (PRD: REDIS_ENCRYPTION_KEY)."""
    Fernet(generate_key())
    assert 1 == len(KeyRing.from_strings([Fernet.generate_key().decode()]))


def test_first_key_seals_all_open() -> None:
    """The first key seals; an envelope of any key in the ring opens."""
    old, new = generate_key(), generate_key()
    before, after = KeyRing.from_strings([old]), KeyRing.from_strings([new, old])
    sealed_before, sealed_after = seal(b"v", key="k", ring=before), seal(b"w", key="k", ring=after)
    assert before.primary.key_id == read_header(sealed_before).key_id
    assert after.primary.key_id == read_header(sealed_after).key_id != before.primary.key_id
    assert b"v" == unseal(sealed_before, key="k", ring=after)
    assert b"w" == unseal(sealed_after, key="k", ring=after)


def test_key_id_is_stable_and_tells_nothing() -> None:
    """The id depends on the key alone, differs between keys, and is not a part of the key."""
    key = bytes(range(32))
    assert "6a468fe1a9b567d3" == KeyRing([key]).primary.key_id.hex()
    assert KeyRing([key[::-1]]).primary.key_id != KeyRing([key]).primary.key_id
    assert KeyRing([key]).primary.key_id not in key


def test_derived_keys_differ_by_purpose() -> None:
    """Keys derived for two purposes differ from each other and from the key itself."""
    key = KeyRing([bytes(range(32))]).primary
    assert 3 == len({key.derive("names"), key.derive("tags"), bytes(range(32))})
    assert 32 == len(key.derive("names"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        base64.urlsafe_b64encode(os.urandom(31)).decode(),
        base64.urlsafe_b64encode(os.urandom(33)).decode(),
        generate_key()[:-1] + "!",
        "\n" + generate_key(),
        generate_key() + generate_key(),
        base64.urlsafe_b64encode(bytes(32)).decode(),
        base64.b64encode(b"\xfb\xff" * 16).decode(),
        "\u00e9" * 44,
        "B" * 42 + "B=",
    ],
)
def test_bad_key_strings(text: str) -> None:
    """A key string of another length, alphabet or spelling, or plainly not random, is refused unseen."""
    with pytest.raises(ConfigurationError) as caught:
        KeyRing.from_strings([generate_key(), text], field="REDIS_ENCRYPTION_KEY")
    assert str(caught.value).startswith("REDIS_ENCRYPTION_KEY (key 2 of 2) ")
    assert not text or text not in str(caught.value)


def test_padding_is_optional() -> None:
    """A key string without its padding is the same key."""
    text = generate_key()
    assert KeyRing.from_strings([text]).primary.key_id == KeyRing.from_strings([text[:-1]]).primary.key_id


def test_empty_ring_and_twin_keys_are_refused() -> None:
    """A ring holds at least one key, and each once."""
    with pytest.raises(ConfigurationError, match="empty"):
        KeyRing([])
    with pytest.raises(ConfigurationError, match="twice"):
        KeyRing([bytes(range(32)), bytes(range(32))])


def test_nothing_shows_a_key() -> None:
    """Neither repr shows a key, and a ring does not pickle."""
    text = generate_key()
    ring = KeyRing.from_strings([text])
    shown = repr(ring) + repr(ring.primary)
    assert text not in shown
    assert base64.urlsafe_b64decode(text).hex() not in shown
    with pytest.raises(TypeError):
        pickle.dumps(ring)


def test_worn_key_warns_then_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """At 2^30 seals a key warns, with its id and count; past 2^32 it refuses and says to rotate."""
    key = bytes(range(32))
    key_id = KeyRing([key]).primary.key_id
    near = KeyRing([key], sealed={key_id: SEALS_WARNED - 1})
    with caplog.at_level(logging.WARNING):
        seal(b"", key="k", ring=near)
    assert ["encryption_key_worn"] == [record.getMessage() for record in caplog.records]
    assert SEALS_WARNED == near.primary.sealed
    spent = KeyRing([key], sealed={key_id: SEALS_ALLOWED - 1})
    last = seal(b"last", key="k", ring=spent)
    with pytest.raises(ConfigurationError, match="rotate the key"):
        seal(b"", key="k", ring=spent)
    assert b"last" == unseal(last, key="k", ring=spent)
    assert 2**30 == module.SEALS_WARNED
    assert 2**32 == module.SEALS_ALLOWED


def test_100_000_seals_share_no_nonce() -> None:
    """A hundred thousand seals have a hundred thousand nonces, and are counted."""
    ring = KeyRing([bytes(range(32))])
    nonces = {seal(b"", key="k", ring=ring)[19:31] for _ in range(100_000)}
    assert 100_000 == len(nonces)
    assert 100_000 == ring.primary.sealed


def test_threads_share_no_nonce() -> None:
    """Eight threads taking nonces at once never get the same one, and every seal is counted."""
    ring = KeyRing([bytes(range(32))])
    taken: list[list[bytes]] = [[] for _ in range(8)]
    start = threading.Barrier(8)

    def work(mine: list[bytes]) -> None:
        start.wait()
        for _ in range(4000):
            ring.primary.count_seal()
            mine.append(take_nonce())

    threads = [threading.Thread(target=work, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 32_000 == len({nonce for mine in taken for nonce in mine})
    with pytest.raises(ConfigurationError):
        KeyRing([bytes(range(32))], sealed={ring.primary.key_id: -1})
    ring.primary.count_seal()
    assert 32_001 == ring.primary.sealed


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_shares_no_nonce() -> None:
    """Two children and their parent, forked with nonces in store, never hand out the same one."""
    take_nonce()
    pipes = [os.pipe(), os.pipe()]
    for _, write in pipes:
        child = os.fork()
        if not child:
            with os.fdopen(write, "wb") as out:
                out.write(b"".join(take_nonce() for _ in range(1000)))
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
    mine = b"".join(take_nonce() for _ in range(1000))
    parts = [mine]
    for read, _ in pipes:
        with os.fdopen(read, "rb") as source:
            parts.append(source.read())
    assert [12_000] * 3 == [len(part) for part in parts]
    assert 3000 == len({part[at : at + 12] for part in parts for at in range(0, 12_000, 12)})
