"""The API: an application of its own (`redkeep serve`), or a router for yours. Needs the extra `redkeep[api]`."""

from redkeep.api.application import create_application, redkeep_router

__all__ = ["create_application", "redkeep_router"]
