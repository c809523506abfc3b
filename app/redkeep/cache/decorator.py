"""`@cached`: the result of an async function, kept under its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from redkeep.cache.document import to_json
from redkeep.cache.entries import NEGATIVE_SECONDS, Entries

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Function = Callable[Parameters, Awaitable[Result]]


def cached(
    cache: Entries,
    ttl: int | None = None,
    *,
    key: Callable[Parameters, str] | None = None,
    negative_ttl: int | None = NEGATIVE_SECONDS,
    early: float = 0.0,
    lock_seconds: float = 10.0,
) -> Callable[[Function[Parameters, Result]], Function[Parameters, Result]]:
    """Keep what the function returns for `ttl` seconds; see `get_or_set` for the rest.

    Results must be what JSON can hold, and so must the arguments, unless `key` makes a key of them. Positional, keyword and
    default arguments that mean the same are the same. Raises TypeError for a function that is not async; at a call TypeError
    or ValueError for arguments that JSON cannot hold, naming the function.
    """

    def decorate(function: Function[Parameters, Result]) -> Function[Parameters, Result]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__} is not an async function")
        signature = inspect.signature(function)
        name = f"{function.__module__}.{function.__qualname__}"

        @functools.wraps(function)
        async def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            if key is not None:
                made = key(*args, **kwargs)
            else:
                bound = signature.bind(*args, **kwargs)
                bound.apply_defaults()
                made = to_json(bound.arguments, field=f"the arguments of {name}", ordered=True).decode()
            return await cache.get_or_set(
                f"ai_cache:call:{name}:{made}",
                lambda: function(*args, **kwargs),
                ttl,
                negative_ttl=negative_ttl,
                early=early,
                lock_seconds=lock_seconds,
            )

        return call

    return decorate
