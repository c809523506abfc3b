"""The API's service on a host: what is changed by hand is named and mended, and a knob takes it away again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploys.conftest import inventory_for
from tests.deploys.runner import Deployment
from tests.lab.lab import Lab

KIND = "valkey81"
UNIT = "unit redkeep-api.service"

# The status code of a call with the key that is given.
ASK = """/opt/redkeep/current/bin/python -c 'import sys, http.client as h
c = h.HTTPConnection("127.0.0.1", 8765); c.request("GET", "/internal/monitoring/nodes", headers={"X-API-Key": sys.argv[1]})
print(c.getresponse().status)'"""

# Calls without a pause, with the key that the file then has.
CALLER = """
import http.client, time
seen = []
try:
    while True:
        c = http.client.HTTPConnection("127.0.0.1", 8765)
        c.request("GET", "/internal/monitoring/nodes", headers={"X-API-Key": open("/etc/redkeep/api/key").read().strip()})
        seen.append(c.getresponse().status)
        time.sleep(0.2)
except KeyboardInterrupt:
    print(len(seen), "answers,", sum(status != 200 for status in seen), "refused", flush=True)
"""


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("systemctl disable --now redkeep-api 2>/dev/null", f"{UNIT} is not enabled and active"),
        ("echo more >> /etc/redkeep/api/monitor-password", "file /etc/redkeep/api/monitor-password has different content"),
    ],
    ids=["stopped", "edited"],
)
def test_a_change_by_hand_is_mended(change: str, named: str, deployed: Callable[[str], Deployment], lab: Lab) -> None:
    """The next run names it, and the service runs under what is wanted."""
    deployment = deployed(KIND)
    lab[KIND].check(change)
    assert named in deployment.run().ok().mended[KIND]
    assert "active" == lab[KIND].check("systemctl is-active redkeep-api")
    assert deployment.run("status").ok().drift == {}


def test_a_knob_takes_it_away(deployed: Callable[[str], Deployment], lab: Lab, tmp_path: Path) -> None:
    """Unit, user, credentials and state go; turned on again, it has the same key."""
    deployment = deployed(KIND)
    key = lab[KIND].check("cat /etc/redkeep/api/key")
    without = Deployment(inventory_for(lab, KIND, tmp_path, api_enabled=False).inventory, deployment.secrets)
    assert f"{UNIT} exists although api_enabled is False" in without.run().ok().mended[KIND]
    left = "ls -d /etc/redkeep/api /var/lib/redkeep-api /etc/systemd/system/redkeep-api.service; getent passwd redkeep-api"
    assert "" == lab[KIND].run(f"{{ {left}; }} 2>/dev/null").out.strip()
    deployment.run().ok()
    assert key == lab[KIND].check("cat /etc/redkeep/api/key")


def test_the_key_is_rotated_and_no_caller_is_refused(deployed: Callable[[str], Deployment], lab: Lab) -> None:
    """The same process lets both keys in; the old one stays while it is in use, with its callers named, and while nobody can know
    that it is not; then it opens nothing. Who reads the file for each call is never refused."""
    deployment, host = deployed(KIND), lab[KIND]
    rotate = ("rotate", "--data", "what=api-key")
    process = host.check("systemctl show -p MainPID redkeep-api")
    old = host.check("cat /etc/redkeep/api/key")

    def asked(key: str) -> str:
        return host.check(f"{ASK} {key}")

    host.put("/run/ask.py", CALLER)
    host.check("systemd-run --quiet --unit caller /opt/redkeep/current/bin/python /run/ask.py")
    try:
        begun = deployment.run(*rotate)
        assert begun.code != 0
        assert "since the API received the new one: run again in 10 min. Both stay valid" in begun.output
        new = host.check("cat /etc/redkeep/api/key")
        assert new != old
        assert ("200", "200") == (asked(old), asked(new))
        refused = deployment.run(*rotate, "--data", "quiet=1")
        assert refused.code != 0
        assert "1 times in all, by 127.0.0.1" in refused.output
        assert old not in begun.output + refused.output
        ended = deployment.run(*rotate, "--data", "quiet=0").ok()
        assert "only the new API key is left" in ended.output
    finally:
        said = host.run("systemctl kill -s INT caller; sleep 0.5; journalctl -u caller -o cat --no-pager | grep answers; rm /run/ask.py").out
    assert ("401", "200") == (asked(old), asked(new))
    assert said.strip().endswith("answers, 0 refused"), said
    assert process == host.check("systemctl show -p MainPID redkeep-api")
    assert host.run("ls /etc/redkeep/api/older-key").code != 0
    assert deployment.run("status").ok().drift == {}
