"""The monitoring's routes: security status, events, figures, nodes, alerts. Each needs the API key."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator

from redkeep.api.auth import Gate, gate_of, require_key
from redkeep.api.dependencies import cache_of, monitoring_of
from redkeep.api.limits import client_of
from redkeep.api.monitoring_schemas import (
    Alerts,
    AlertTest,
    Events,
    MonitoringHealth,
    Nodes,
    OlderKey,
    SecurityMetrics,
    SecurityStatus,
)
from redkeep.api.problems import KEYED, Route
from redkeep.cache.response import AIResponseCache
from redkeep.monitoring.events import MAX_EVENTS, EventType, Severity
from redkeep.monitoring.service import MonitoringService

EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]")


def _written_out(text: Any) -> Any:
    """A date and a time, as RFC 3339 writes them; a bare number is none."""
    if not _DATE.match(str(text)):
        raise ValueError("must look like 2026-01-31T12:00:00Z")
    return text


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]
Monitoring = Annotated[MonitoringService, Depends(monitoring_of)]

router = APIRouter(
    prefix="/internal/monitoring", tags=["monitoring"], dependencies=[Depends(require_key)], responses=KEYED, route_class=Route
)
short = APIRouter(tags=["monitoring"], dependencies=[Depends(require_key)], responses=KEYED, route_class=Route)


@short.get("/monitoring/security-status", response_model=SecurityStatus, summary="Are we safe?")
@router.get("/security-status", response_model=SecurityStatus, summary="Are we safe?")
async def security_status(monitoring: Monitoring) -> Any:
    """What checks of the live system found, at most a minute ago unless configured otherwise; never what is merely configured."""
    return await monitoring.security_status()


@router.get("/events", response_model=Events, summary="Security events")
async def events(
    monitoring: Monitoring,
    kind: Annotated[EventType | None, Query(description="Only events of this kind")] = None,
    severity: Annotated[Severity | None, Query(description="Only events of this kind")] = None,
    since: Annotated[Moment | None, Query(description="From this time on, with its time zone")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS, description="At most this many")] = 100,
) -> Any:
    """The last security events of any client, latest first."""
    return {"events": monitoring.events(kind=kind, severity=severity, since=since, limit=limit)}


@router.get("/metrics", response_model=SecurityMetrics, summary="Metrics and their history")
async def security_metrics(monitoring: Monitoring) -> Any:
    """Counters, rates of the last hour, and series for plots."""
    return monitoring.metrics()


@router.get("/nodes", response_model=Nodes, response_model_exclude_unset=True, summary="Each server")
async def nodes(monitoring: Monitoring) -> Any:
    """Each watched node at the last look; a look is two seconds apart."""
    return {"nodes": monitoring.nodes()}


@router.get("/alerts", response_model=Alerts, response_model_exclude_unset=True, summary="Alerts and their channels")
async def alerts(monitoring: Monitoring) -> Any:
    """The alerts that were sent, and whether each channel delivered them."""
    return monitoring.alerts()


@router.post("/alerts/test", response_model=AlertTest, summary="Send a test through every channel")
async def send_test_alert(request: Request, monitoring: Monitoring, gate: Annotated[Gate, Depends(gate_of)]) -> Any:
    """Answers when each channel has delivered or given up, after half a minute at most; three a minute at most."""
    gate.limit(client_of(request), "alert test")
    return {"channels": await monitoring.send_test_alert()}


@router.get("/older-key", response_model=OlderKey, summary="Who still uses the older key?")
async def older_key(gate: Annotated[Gate, Depends(gate_of)]) -> Any:
    """What a rotation of the API key asks before it ends: who has used the older key, as far as this process knows."""
    accepted, use, now = gate.keys.two, gate.keys.older_key_use, time.monotonic()
    return {
        "accepted": accepted,
        "watched_seconds": round(now - use.since, 1) if accepted else 0.0,
        "requests": use.requests,
        "seconds_since_last": None if use.last is None else round(now - use.last, 1),
        "callers": use.callers,
    }


@router.get("/health", response_model=MonitoringHealth, summary="Is the monitoring working?")
async def monitoring_health(monitoring: Monitoring, cache: Annotated[AIResponseCache, Depends(cache_of)]) -> Any:
    """The cache of this process and the watching of the servers; 200 either way, for the answer is in the body."""
    found = await cache.health_check()
    states = [node["state"] for node in monitoring.nodes()]
    watching = monitoring.watches and all(state == "up" for state in states)
    healthy = watching and found["status"] == "healthy"
    return {
        "status": "healthy" if healthy else "degraded",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "components": {
            "cache": {name: found[name] for name in ("status", "latency_ms", "breaker", "reason")},
            "monitoring": {
                "status": "healthy" if watching else "degraded", "watching": monitoring.watches,
                "nodes_up": states.count("up"), "nodes": len(states),
            },
        },
    }  # fmt: skip


@short.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {EXPOSITION: {"schema": {"type": "string"}}}, "description": "Prometheus' text format"}},
    summary="For Prometheus",
)
async def exposition(monitoring: Monitoring) -> Response:
    """A scrape sends the key as `authorization: {credentials_file: ...}`."""
    return Response(monitoring.metrics_text(), media_type=EXPOSITION)
