"""The TLS door against Mozilla's profiles, judged by sslyze."""

from __future__ import annotations

import re

from tests.hosts.machine import Machine

from .sslyze import scan


def test_tls_is_what_mozilla_recommends(scanned: Machine) -> None:
    """sslyze finds the door compliant: "modern" with TLS 1.3 alone, "intermediate" where 1.2 is allowed."""
    profile = {"1.3": "modern", "1.2": "intermediate"}[scanned.wanted["tls_minimum_version"]]
    report = scan(scanned, profile)
    verdict = report.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    assert re.search(rf'Mozilla\'s "{profile}" configuration', verdict), report[-2000:]
    assert re.findall(r"^\s+\S+: (OK - Compliant|FAILED .*|ERROR .*)", verdict, re.M) == ["OK - Compliant"], verdict
