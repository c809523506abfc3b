"""The webhook without a network: which addresses may be called, what stands in the request."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import Any

import pytest

from redkeep.monitoring.alert import Alert
from redkeep.monitoring.alert_settings import Webhook
from redkeep.monitoring.alert_webhook import SIGNATURE, WebhookChannel, may_call, sign, slack_text


def alert(**changes: Any) -> Alert:
    plain: dict[str, Any] = {
        "id": "00ff", "kind": "k", "title": "t", "message": "m", "severity": "error", "state": "firing", "host": "h",
        "timestamp": datetime(2026, 1, 2, tzinfo=UTC), "details": {"n": 1},
    }  # fmt: skip
    return Alert(**{**plain, **changes})


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::808:808", "2002:808:808::1"])
def test_public_addresses_may_be_called(address: str) -> None:
    """IPv4, IPv6, and IPv4 in IPv6 clothes."""
    assert may_call(ipaddress.ip_address(address), ())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::", "2001:db8::1",
        "fec0::1", "feff::1",
    ],
)  # fmt: skip
def test_others_may_not(address: str) -> None:
    """Loopback, private, link-local (cloud metadata), multicast, reserved, and each of them in IPv6 clothes."""
    assert not may_call(ipaddress.ip_address(address), ())
    assert not may_call(ipaddress.ip_address(address), (ipaddress.ip_network("203.0.113.0/24"),))


def test_a_network_that_was_named() -> None:
    """It opens itself and nothing beside it."""
    networks = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    found = [may_call(ipaddress.ip_address(each), networks) for each in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "10.2.0.1", "fe80::1")]
    assert [True, True, True, False, False] == found


def test_the_signature_is_over_time_and_body() -> None:
    """HMAC-SHA256 as a receiver computes it: a fixed value, made once by openssl."""
    # printf '1700000000.{}' | openssl dgst -sha256 -hmac key-of-the-test
    expected = "t=1700000000,v1=4f0123c8cb09adf78b05dad2710234400833fc74483a19128a35c9a3c32c41a0"
    assert expected == sign("key-of-the-test", b"{}", seconds=1_700_000_000)
    settings = Webhook(url="https://hooks.example.org:8443/a?b=c", secret="key-of-the-test", ca_file=None, networks=(), dev_http=False)
    headers = WebhookChannel(settings, clock=lambda: 1_700_000_000.9).headers(b"{}")
    assert (expected, "hooks.example.org:8443", "2") == (headers[SIGNATURE], headers["Host"], headers["Content-Length"])
    unsigned = WebhookChannel(Webhook(url="https://x/", secret=None, ca_file=None, networks=(), dev_http=False))
    assert SIGNATURE not in unsigned.headers(b"{}")


def test_text_for_chats() -> None:
    """One line; Slack's control characters are escaped, so no name is a link, a mention or everybody."""
    found = slack_text(alert(title="T", message="<!channel> & <http://x|y>", state="resolved"))
    assert "[redkeep] resolved: T on h. &lt;!channel&gt; &amp; &lt;http://x|y&gt;" == found


def test_an_alert_survives_being_plain_data() -> None:
    """What a state file or a receiver holds is the alert again; something else is an error."""
    made = alert()
    assert made == Alert.from_dict(made.as_dict())
    for wrong in ({}, {**made.as_dict(), "more": 1}, {**made.as_dict(), "timestamp": "yesterday"}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Alert.from_dict(wrong)
