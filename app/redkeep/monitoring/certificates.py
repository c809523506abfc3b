"""When certificates end: the server's as it is served, our own, and the CA's."""

from __future__ import annotations

import calendar
import math
import ssl
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from redkeep.access.tls import client_context
from redkeep.errors import RedkeepError
from redkeep.monitoring.across_nodes import probe_nodes
from redkeep.monitoring.wire import Wire
from redkeep.target import Target

EXPIRY_DAYS: Final = 14
"""Days left at which a certificate is an alarm: half of the 30 at which the deploy renews it."""


def certificate_ends(target: Target, connection: ssl.SSLSocket) -> dict[str, float]:
    """Whose certificate ends when, in seconds since the epoch: server, CA (of two, the newer), client.

    `connection` is an open one to the server. Raises OSError and ValueError for files that cannot be read.
    """
    authorities = connection.context.get_ca_certs()
    ends = {
        "server": float(ssl.cert_time_to_seconds(str((connection.getpeercert() or {})["notAfter"]))),
        "CA": max((ssl.cert_time_to_seconds(str(each["notAfter"])) for each in authorities), default=math.inf),
    }
    if target.cert_file:
        ends["client"] = certificate_end(target.cert_file.read_text("ascii"))
    return ends


def certificates(nodes: Mapping[str, Target], *, timeout: float) -> list[dict[str, Any]]:
    """Each certificate with its end, in ISO 8601, and the days left; the first to end first.

    The server's of each of `nodes`, by name, that could be asked; ours and the CA's, the same for all, once, with node None.
    """
    found: dict[tuple[str, str | None], float] = {}
    for node, ends in probe_nodes(nodes, partial(_ends, timeout=timeout)).items():
        for whose, end in ends.items():
            found[whose, node if whose == "server" else None] = end
    now = time.time()
    return [
        {
            "whose": whose, "node": node, "ends": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(end)),
            "days_left": int((end - now) // 86_400), "seconds_left": int(end - now),
            "state": "ok" if end - now >= EXPIRY_DAYS * 86_400 else "weak",
        }
        for (whose, node), end in sorted(found.items(), key=lambda each: each[1])
        if end < math.inf
    ]  # fmt: skip


def _ends(target: Target, *, timeout: float) -> dict[str, float]:
    """Those of one node; empty when they cannot be told."""
    if not target.tls:
        return {}
    try:
        with Wire(target.host, target.port, context=client_context(target), timeout=timeout) as wire:
            return certificate_ends(target, wire.socket) if isinstance(wire.socket, ssl.SSLSocket) else {}
    except (OSError, RedkeepError, ValueError):
        return {}


def certificate_end(pem: str) -> float:
    """Seconds since the epoch at which the first certificate in `pem` ends.

    Looks for the Validity sequence (RFC 5280, 4.1.2.5: two UTCTime or GeneralizedTime values) instead of loading an
    X.509 parser, which costs 100 ms at import. Raises ValueError when there is none.
    """
    head, tail = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    body = pem.partition(head)[2].partition(tail)[0]
    der = ssl.PEM_cert_to_DER_cert(f"{head}{body}{tail}\n")
    lengths = {0x17: 13, 0x18: 15}  # YYMMDDHHMMSSZ, YYYYMMDDHHMMSSZ
    for at in range(len(der) - 36):
        if der[at] != 0x30 or lengths.get(der[at + 2]) != der[at + 3]:
            continue
        second = at + 4 + der[at + 3]
        if der[at + 1] != second + 2 + der[second + 1] - at - 2 or lengths.get(der[second]) != der[second + 1]:
            continue
        text = der[second + 2 : second + 2 + der[second + 1]].decode("ascii")
        year = text[:-11] if len(text) == 15 else f"{'19' if text[:2] >= '50' else '20'}{text[:2]}"
        month, day, hour, minute, sec = (text[-11 + i : -9 + i] for i in range(0, 10, 2))
        return float(calendar.timegm((int(year), int(month), int(day), int(hour), int(minute), int(sec))))
    raise ValueError("no validity in the certificate")
