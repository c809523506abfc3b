"""The short forms of the long runs in tests/soak."""

from __future__ import annotations

import math

import pytest

from tests.soak.decoder import Breach, _check_plain, check, seeds
from tests.soak.fuzz import with_hypothesis
from tests.soak.seals import count_repeats


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # pickletools, on opcodes that we refuse
def test_fuzz_the_decoder(soak: bool) -> None:
    """Whatever lies in Redis is a value of JSON's types or a DecryptionError, in under 32 MB."""
    runs, megabytes = with_hypothesis(60 if soak else 5)
    assert runs > 500
    assert megabytes < 32


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_the_property_can_be_broken() -> None:
    """The fuzzer's own check notices objects, keys that are no text and depth; its seeds hold."""
    for wrong in (b"bytes", {1: 2}, [object()], {"a": {1, 2}}):
        with pytest.raises(Breach):
            _check_plain(wrong)
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(Breach):
        _check_plain(deep)
    _check_plain({"a": [1, 2.5, None, True, "text", (math.inf,)]})
    for seed in seeds():
        check(seed)


def test_seals_share_no_nonce(soak: bool) -> None:
    """Parent and four children that seal at once, from nonces in store before they parted."""
    seals = 1_000_000 if soak else 50_000
    assert (seals, 0, 5) == count_repeats(seals, 4)
