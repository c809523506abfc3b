"""Who was refused at the server, as a rotation asks: people with an old password, and not our own probe."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from deploys import sessions
from deploys.site import Site
from redkeep.monitoring.probes import PROBE_NAME, PROBED_USER_OBJECT


def test_our_own_probe_is_nobody_with_an_old_password() -> None:
    """The posture tries a wrong password for the user that it is logged in as: no rotation waits for it."""

    def entry(what: str, name: str, user: str = "cache_service") -> dict[str, Any]:
        info = f"id=7 addr=10.0.0.5:4711 laddr=10.0.0.1:6380 name={name} user={user}"
        return {"count": 2, "reason": "auth", "object": what, "username": "cache_service", "client-info": info}

    log = [entry(PROBED_USER_OBJECT, PROBE_NAME), entry("AUTH", PROBE_NAME), entry(PROBED_USER_OBJECT, "app"), entry("AUTH", "")]
    log.append(entry(PROBED_USER_OBJECT, "", "monitor"))
    site = cast(Site, SimpleNamespace(run=lambda *_, **__: (True, [json.dumps(log)], [])))
    assert {"cache_service from 10.0.0.5": 6} == sessions.refusals(site, {"cache_service"})
