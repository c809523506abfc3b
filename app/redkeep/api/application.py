"""The API as an application of its own, and as a router for somebody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request

from redkeep import __version__
from redkeep.api import cache_routes, health, monitoring_routes
from redkeep.api.auth import require_key
from redkeep.api.dependencies import backend_lifespan
from redkeep.api.problems import KEYED, internal_error


def redkeep_router(env_file: Path | None = None, *, interval: float | None = None) -> APIRouter:
    """Every route of Redkeep for an application of your own: `app.include_router(redkeep_router())`, before it starts.

    It brings its lifespan along: the key of REDKEEP_API_KEY, the cache (the application's own, when it has
    `cache_lifespan()`), the monitoring, by the settings of `env_file` or of the environment, with a probe of the posture
    every `interval` seconds (by default 30). Wrong settings stop the application's start with a ConfigurationError.
    """
    router = APIRouter(lifespan=backend_lifespan(env_file, interval=interval))
    for part in (cache_routes.router, monitoring_routes.router, monitoring_routes.short, health.router):
        router.include_router(part)
    return router


def create_application(env_file: Path | None = None, *, interval: float | None = None) -> FastAPI:
    """Redkeep's own application: the routes, and /openapi.json behind the key; no page of documentation."""
    app = FastAPI(
        title="Redkeep",
        version=__version__,
        summary="Status, events and metrics of a hardened Redis and its cache",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        exception_handlers={Exception: internal_error},
    )
    app.include_router(redkeep_router(env_file, interval=interval))

    @app.get("/openapi.json", tags=["documentation"], dependencies=[Depends(require_key)], responses=KEYED, summary="This document")
    async def openapi(request: Request) -> dict[str, Any]:
        """The OpenAPI document of this very version."""
        document: dict[str, Any] = request.app.openapi()
        return document

    return app
