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


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("systemctl disable --now redkeep-api 2>/dev/null", f"{UNIT} is not enabled and active"),
        ("echo more >> /etc/redkeep/api/monitor-password", "file /etc/redkeep/api/monitor-password has other content"),
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
    assert f"{UNIT} is there, and api_enabled is False" in without.run().ok().mended[KIND]
    left = "ls -d /etc/redkeep/api /var/lib/redkeep-api /etc/systemd/system/redkeep-api.service; getent passwd redkeep-api"
    assert "" == lab[KIND].run(f"{{ {left}; }} 2>/dev/null").out.strip()
    deployment.run().ok()
    assert key == lab[KIND].check("cat /etc/redkeep/api/key")
