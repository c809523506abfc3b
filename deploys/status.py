"""Show, host by host, what differs from what is wanted: on disk and in what runs. Changes nothing.

pyinfra -y inventory deploys/status.py        exit code 1 when a host has drifted
"""

from deploys.site import open_site
from deploys.stages import preflight
from deploys.stages.application import application
from deploys.stages.container_engine import container_engine
from deploys.stages.containers import runtime
from deploys.stages.image import server_image
from deploys.stages.machine import machine
from deploys.stages.network import network
from deploys.stages.report import report
from deploys.stages.server import server_files
from deploys.stages.service import server_running
from deploys.stages.watch import watch

site = open_site(preflight.question, reporting=True)

machine(site=site)
if site.bundle.is_redis:
    runtime(site=site)
    if site.bundle.in_container:
        container_engine(site=site)
        server_image(site=site)
    server_files(site=site)
    network(site=site)
    server_running(site=site)
watch(site=site)
if site.bundle.is_app:
    application(site=site)
report(site=site)
