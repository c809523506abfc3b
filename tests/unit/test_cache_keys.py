"""Key names: the old ones to the digit, and hashed ones that neither collide nor tell."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from redkeep.cache.interface import CacheInterface
from redkeep.cache.invalidation import escape_glob
from redkeep.cache.keys import (
    ENTRY_OPERATION,
    CacheKeyGenerator,
    HashedNames,
    canonical_request,
    is_hashed_name,
    operation_label,
    operation_of,
    operation_prefix,
)
from redkeep.cache.origin import Origin, end_of_origin, split_origin
from redkeep.crypto.keyring import KeyRing, generate_key
from redkeep.errors import DecryptionError
from redkeep.monitoring.performance import CachePerformanceMonitor

OLD, NEW = generate_key(), generate_key()
options = st.none() | st.dictionaries(st.text(), st.none() | st.integers(-9, 9) | st.text(max_size=3) | st.booleans(), max_size=3)
requests = st.tuples(st.text(max_size=20), st.text(max_size=6), st.text(max_size=20), options, st.none() | st.text(max_size=5))


def test_old_names() -> None:
    """Every part of the old format, worked out here by hand."""
    make = CacheKeyGenerator().generate_cache_key
    assert make("a|b:c", "op", {}) == "ai_cache:op:op|txt:a_b_c"
    digest = hashlib.md5(b"a=1&b=x", usedforsecurity=False).hexdigest()[:8]
    asked = hashlib.md5(b"why?", usedforsecurity=False).hexdigest()[:8]
    assert make("t", "qa", {"b": "x", "a": 1}, "why?") == f"ai_cache:op:qa|txt:t|opts:{digest}|q:{asked}"
    long = "word and word " * 100
    text = hashlib.sha256(long.encode() + f"len:{len(long)}words:300".encode()).hexdigest()[:16]
    assert make(long, "qa", None) == f"ai_cache:op:qa|txt:hash:{text}"
    assert CacheKeyGenerator(text_hash_threshold=3).generate_cache_key("abcd", "qa", {}).startswith("ai_cache:op:qa|txt:hash:")
    assert make("x" * 1000, "qa", {}).endswith("x" * 1000)


def test_times_are_recorded() -> None:
    """With a monitor, each generation is measured with its tier and parts."""
    monitor = CachePerformanceMonitor()
    CacheKeyGenerator(performance_monitor=monitor).generate_cache_key("t", "qa", {}, "q")
    (record,) = monitor.key_generation_times
    assert (record.operation_type, record.text_length) == ("qa", 1)
    assert record.additional_data == {"text_tier": "small", "has_options": False, "has_question": True}


@given(requests, requests)
def test_requests_do_not_collide(one: Any, other: Any) -> None:
    """Two requests have one canonical form only if they are one request."""

    def meaning(request: Any) -> Any:
        namespace, operation, text, choices, question = request
        typed = sorted((key, type(value).__name__, value) for key, value in (choices or {}).items())
        return namespace, operation, text, repr(typed), question

    try:
        same = canonical_request(*one) == canonical_request(*other)
    except TypeError:
        assume(False)
    assert same == (meaning(one) == meaning(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("", "o", "a|b", None), ("", "o", "a_b", None)),
        (("", "o", "t", {"a": 1, "b": 2}), ("", "o", "t", {"a": "1&b=2"})),
        (("", "o", "t", {"a": 1}), ("", "o", "t", {"a": True})),
        (("", "o", "t", {"a": None}), ("", "o", "t", {"a": "None"})),
        (("", "o", "t", None, ""), ("", "o", "t", None)),
        (("a", "bo", "t", None), ("ab", "o", "t", None)),
        (("", "o", "t\ud800", None), ("", "o", "t?", None)),
    ],
)
def test_known_collisions(one: Any, other: Any) -> None:
    """Pairs that shared a name in the old format, or nearly would."""
    assert canonical_request(*one) != canonical_request(*other)


def test_order_of_options_does_not_matter() -> None:
    """One request whatever the order; none and no options are one."""
    assert canonical_request("", "o", "t", {"a": 1, "b": {"c": 1, "d": 2}}) == canonical_request("", "o", "t", {"b": {"d": 2, "c": 1}, "a": 1})
    assert canonical_request("", "o", "t", {}) == canonical_request("", "o", "t", None)


@pytest.mark.parametrize("value", [{1}, b"x", {1: 2}, float("nan")])
def test_options_that_json_cannot_hold(value: object) -> None:
    """The argument is named."""
    with pytest.raises((TypeError, ValueError), match=r"^options cannot"):
        canonical_request("", "o", "t", {"a": value})


def test_hashed_names() -> None:
    """`ai_cache:op:{operation}|h:{32 hex digits}`; nothing of the text; different by key, tenant, epoch and question."""
    names = HashedNames(KeyRing.from_strings([NEW]), "tenant")
    request = ("secret words", {"a": 1}, None)
    name = names.named("summarize", *request, epochs="e")[0]
    assert name == names.named("summarize", *request, epochs="e")[0]
    assert re.fullmatch(r"ai_cache:op:summarize\|h:[0-9a-f]{32}", name)
    assert is_hashed_name(name)
    assert not is_hashed_name(name + "0")
    assert not is_hashed_name("ai_cache:op:summarize|txt:secret words")
    others = {
        HashedNames(KeyRing.from_strings([OLD]), "tenant").named("summarize", *request, epochs="e")[0],
        HashedNames(KeyRing.from_strings([NEW]), "x").named("summarize", *request, epochs="e")[0],
        names.named("summarize", *request, epochs="f")[0],
        names.named("summarize", "secret words", {"a": 1}, "", epochs="e")[0],
        names.named("qa", *request, epochs="e")[0],
    }
    assert len(others | {name}) == 6


def test_names_of_older_keys() -> None:
    """After a promotion the name under the older key is known, and the other way round: processes find each other's values."""
    before, after = HashedNames(KeyRing.from_strings([OLD, NEW]), ""), HashedNames(KeyRing.from_strings([NEW, OLD]), "")
    request = before.request("qa", "t", None, None)
    assert request == after.request("qa", "t", None, None)
    first, second = (names.named("qa", "t", None, None, epochs="e")[0] for names in (before, after))
    assert [first, second] == before.under_each_key("qa", request, epochs="e")
    assert [second, first] == after.under_each_key("qa", request, epochs="e")
    assert after.several
    assert not HashedNames(KeyRing.from_strings([NEW]), "").several


@given(st.text(max_size=80))
def test_odd_operations_stay_apart(operation: str) -> None:
    """A prefix holds no separator but its own, no two operations share one, and a label is its own."""
    assert operation_label(operation) == operation_label(operation_label(operation))
    prefix = operation_prefix(operation)
    assert prefix.isascii()
    assert prefix.count("|") == 1
    assert prefix != operation_prefix(operation + "x")
    assert len(prefix) < 90


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_operation_of_a_name(operation: str, text: str) -> None:
    """It is read from hashed and readable names, as what gives the same epochs; other names are keys of `set`."""
    hashed = HashedNames(KeyRing.from_strings([NEW]), "").named(operation, text, None, None, epochs="e")[0]
    assert operation_label(operation) == operation_of(hashed)
    if "|" not in operation:
        assert operation == operation_of(CacheKeyGenerator().generate_cache_key(text, operation, None))
    assert operation_of("ai_cache:" + text) == ENTRY_OPERATION or "|txt:" in text


def test_what_stands_for_a_name_is_no_request() -> None:
    """A readable name has 32 bytes of its own: apart from those of a request, and another tenant's."""
    ring, name = KeyRing.from_strings([NEW]), "ai_cache:op:qa|txt:t"
    names = HashedNames(ring, "")
    others = {names.request("", name, None, None), names.request("qa", "t", None, None), HashedNames(ring, "x").readable(name)}
    assert names.readable(name) not in others
    assert len({*others, names.readable(name + "x"), names.readable(name)}) == 5
    assert {32} == {len(each) for each in others}


@given(st.binary(min_size=32, max_size=32) | st.just(b""), st.text(max_size=40), st.binary(max_size=40))
def test_origins_come_back(request: bytes, readable: str, packed: bytes) -> None:
    """Whatever the origin knows, it and what follows are read as they were written; a piece of it is damage."""
    origin = Origin(request, readable)
    whole = origin.encode() + packed
    assert split_origin(whole) == (origin, packed)
    assert whole[end_of_origin(whole) :] == packed
    for length in range(len(origin.encode())):
        with pytest.raises(DecryptionError):
            split_origin(whole[:length])
    with pytest.raises(DecryptionError, match="does not know"):
        end_of_origin(b"\x04" + whole)


@given(st.text(max_size=30))
def test_escaped_globs_match_only_themselves(text: str) -> None:
    """Every special character of Redis' globs is escaped."""
    assert text == re.sub(r"\\(.)", r"\1", escape_glob(text), flags=re.DOTALL)
    assert not re.search(r"(?<!\\)(\\\\)*[*?\[\]]", escape_glob(text))


def test_the_interface_is_abstract() -> None:
    """A cache must have get, set and delete."""
    with pytest.raises(TypeError):
        CacheInterface()  # type: ignore[abstract]
    assert {"get", "set", "delete"} == CacheInterface.__abstractmethods__
