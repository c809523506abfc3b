"""The cache's internal routes: statistics, and invalidation. Each needs the API key."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Query, status

from redkeep.api.auth import require_key
from redkeep.api.cache_schemas import CacheStatus, Invalidated, InvalidationStatistics, Performance, Recommendations
from redkeep.api.dependencies import cache_of
from redkeep.api.problems import KEYED, REFUSED, UNAVAILABLE, Route
from redkeep.cache.response import AIResponseCache

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
_NO_SCAN: Final = "no user here may search key names; invalidate op:NAME or everything, or set REDIS_JANITOR_PASSWORD"
Cache = Annotated[AIResponseCache, Depends(cache_of)]

router = APIRouter(
    prefix="/internal/cache", tags=["cache"], dependencies=[Depends(require_key)], responses=KEYED, route_class=Route
)


@router.get("/status", response_model=CacheStatus, response_model_exclude_unset=True, summary="Redis, memory and performance")
async def cache_status(cache: Cache) -> Any:
    """Statistics of this process's cache, and of Redis as it is now. A Redis that is down is `unavailable`, not an error."""
    return await cache.get_cache_stats()


@router.post(
    "/invalidate", response_model=Invalidated, responses={**REFUSED, **UNAVAILABLE}, summary="Invalidate cached answers"
)
async def invalidate(
    cache: Cache,
    pattern: Annotated[
        str, Query(max_length=512, pattern=PRINTABLE, description="`op:NAME` for one operation; empty for everything")
    ],
    operation_context: Annotated[str, Query(max_length=128, pattern=PRINTABLE, description="The reason, for the statistics")] = "api_endpoint",
) -> Any:
    """Invalidate an operation, or everything. Any other pattern matches only readable names and needs the janitor's password."""
    removed = await cache.invalidate_pattern(pattern, operation_context)
    # No await since the cache noted it: the last event like this is this one's.
    noted = reversed(cache.performance_monitor.invalidation_events)
    ours = (event for event in noted if (event.pattern, event.operation_context) == (pattern, operation_context))
    data = next((event.additional_data or {} for event in ours), {})
    if data.get("status") == "failed":
        if data.get("reason") in ("configuration", "permission_denied"):
            raise HTTPException(status.HTTP_409_CONFLICT, _NO_SCAN)
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, f"nothing was invalidated: {data.get('reason')}")
    return Invalidated(message=f"Cache invalidated for pattern: {pattern}", keys_invalidated=removed)


@router.get(
    "/invalidation-stats", response_model=InvalidationStatistics, response_model_exclude_unset=True, summary="Invalidations: how many and which"
)
async def invalidation_statistics(cache: Cache) -> Any:
    """Invalidations that this process made: rates, patterns, efficiency."""
    return cache.get_invalidation_frequency_stats()


@router.get("/invalidation-recommendations", response_model=Recommendations, summary="Recommendations based on the invalidations")
async def invalidation_recommendations(cache: Cache) -> Any:
    """Advice from the invalidations that this process made."""
    return {"recommendations": cache.get_invalidation_recommendations()}


@router.get("/metrics", response_model=Performance, response_model_exclude_unset=True, summary="The performance monitor")
async def cache_metrics(cache: Cache) -> Any:
    """Times, hit rate, compression and memory of this process's cache."""
    return cache.performance_monitor.get_performance_stats()
