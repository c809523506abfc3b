"""For FastAPI: one cache an application, opened and closed with it, and handed to its routes.

    app = FastAPI(lifespan=cache_lifespan())

    @app.get("/answer")
    async def answer(cache: Annotated[AIResponseCache, Depends(get_cache_service)]) -> ...

Needs the extra `redkeep[api]`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection

from redkeep.cache.response import AIResponseCache
from redkeep.errors import ConfigurationError

if TYPE_CHECKING:
    from redkeep.settings import Settings

_ATTRIBUTE = "redkeep_cache"


def cache_lifespan(
    settings: Settings | None = None, *, cache: AIResponseCache | None = None
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan that opens the cache of `settings` (by default the environment's), or the one given, and closes it.

    The application starts also while Redis is down; wrong settings stop it, with a ConfigurationError.
    """

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        from redkeep.cache.secure import SecureAIResponseCache

        service = SecureAIResponseCache.from_settings(settings) if cache is None else cache
        async with service:
            setattr(app.state, _ATTRIBUTE, service)
            try:
                yield
            finally:
                delattr(app.state, _ATTRIBUTE)

    return lifespan


def get_cache_service(connection: HTTPConnection) -> AIResponseCache:
    """The application's cache. Raises ConfigurationError when its lifespan did not open one."""
    service = getattr(connection.app.state, _ATTRIBUTE, None)
    if not isinstance(service, AIResponseCache):
        raise ConfigurationError("the application has no cache; pass lifespan=cache_lifespan() to FastAPI")
    return service
