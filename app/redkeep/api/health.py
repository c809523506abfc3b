"""Liveness and readiness: no key, no detail."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Response, status
from pydantic import BaseModel

from redkeep.api.auth import limited
from redkeep.api.dependencies import cache_of
from redkeep.api.problems import LIMITED, Route
from redkeep.cache.response import AIResponseCache


class Live(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class Ready(BaseModel):
    """Whether Redis answers this process."""

    status: Literal["ready", "unavailable"]


_AWAY: Final[dict[int | str, dict[str, Any]]] = {503: {"model": Ready, "description": "Redis does not answer"}}

router = APIRouter(tags=["health"], dependencies=[Depends(limited)], responses=LIMITED, route_class=Route)


@router.get("/health/live", response_model=Live, summary="The process answers")
async def live() -> Any:
    """For a supervisor: when this fails, start the process again."""
    return {"status": "alive"}


@router.get("/health", response_model=Ready, responses=_AWAY, summary="Redis answers")
@router.get("/health/ready", response_model=Ready, responses=_AWAY, summary="Redis answers")
async def ready(cache: Annotated[AIResponseCache, Depends(cache_of)], response: Response) -> Any:
    """For a load balancer. The security status is served either way, and says why."""
    if (await cache.health_check())["status"] == "healthy":
        return {"status": "ready"}
    response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return {"status": "unavailable"}
