"""Everything a host shall be, stage by stage, in the one order in which it can be made so without a gap."""

from __future__ import annotations

from deploys.site import Site
from deploys.stages.api import api
from deploys.stages.app_containers import app_containers
from deploys.stages.app_images import app_images
from deploys.stages.application import application
from deploys.stages.container_engine import container_engine
from deploys.stages.containers import runtime
from deploys.stages.image import server_image
from deploys.stages.machine import machine
from deploys.stages.network import network
from deploys.stages.server import server_files
from deploys.stages.service import server_running
from deploys.stages.watch import watch


def whole(site: Site) -> None:
    """Bring the host to what is wanted; for a reporting site only note what differs."""
    machine(site=site)
    if site.bundle.is_redis:
        if site.bundle.in_container:
            container_engine(site=site)
            server_image(site=site)
            if site.bundle.api_in_container:
                app_images(site=site)
        # After the image is there and has run, and a server has started from the new files: otherwise a host keeps the one that it has.
        server_files(site=site)
        runtime(site=site)
        if site.bundle.api_in_container:
            app_containers(site=site)
        network(site=site)
        server_running(site=site)
    watch(site=site)
    application(site=site)
    api(site=site)
