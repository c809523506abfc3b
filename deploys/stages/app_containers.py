"""What the API and the dashboard read in their containers: their own credentials, in folders that they see read-only."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra.api import deploy

from deploys import stack
from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.facts.survey import Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.site import Site
from deploys.stages import api, app_images, application

# Where the containers see the folders.
INSIDE = "/etc/redkeep"


def question(site: Site) -> Question:
    if not site.bundle.is_app:
        return Question()
    folder = stack.DASHBOARD_FOLDER
    files = (folder, f"{folder}/key", f"{folder}/ca.crt", stack.API_STATE)
    groups = (site.bundle.knobs.app_group,)
    return app_images.question(site) | Question(files=files, stack_app=(api.USER, *groups) if site.bundle.in_container else ())


def environment(site: Site, survey: Survey) -> dict[str, str]:
    """The settings of the API: the app's, by the names that are true inside the container."""
    return application.values(site, survey) | {
        "REDIS_SETTINGS_FILE": f"{INSIDE}/cache.env",
        "REDIS_URL": f"rediss://{stack.SERVICE}:{site.bundle.knobs.redis_tls_port}/0",
        "REDIS_TLS_CA_FILE": f"{INSIDE}/ca.crt",
        "REDIS_TLS_CERT_FILE": f"{INSIDE}/client.crt",
        "REDIS_TLS_KEY_FILE": f"{INSIDE}/client.key",
        "REDIS_MONITOR_PASSWORD": site.credentials.password("monitor"),
        "REDKEEP_LOCAL_FILE": f"{INSIDE}/local.env",
    }


def api_files(site: Site, survey: Survey) -> list[ManagedFile]:
    """What the API's container reads when it starts. At its keys it looks again and again."""
    leaf = site.credentials.api_server(site.bundle.name)
    settings = render("etc/redkeep/cache.env", group=api.USER, values=environment(site, survey))
    return [
        *api.access_files(site),
        ManagedFile(f"{api.FOLDER}/cache.env", settings, group=api.USER, mode="0640"),
        ManagedFile(f"{api.FOLDER}/ca.crt", site.credentials.trust_bundle),
        ManagedFile(f"{api.FOLDER}/server.crt", leaf.cert_pem),
        ManagedFile(f"{api.FOLDER}/server.key", leaf.key_pem, group=api.USER, mode="0640"),
    ]


def dashboard_files(site: Site) -> list[ManagedFile]:
    """What the dashboard's container reads: the API's key, and whose certificate to trust."""
    folder = stack.DASHBOARD_FOLDER
    return [
        ManagedFile(f"{folder}/key", site.credentials.api_key().encode() + b"\n", group=api.USER, mode="0640"),
        ManagedFile(f"{folder}/ca.crt", site.credentials.trust_bundle),
    ]


def variables(site: Site, survey: Survey) -> dict[str, str]:
    """The variables of the compose files of the API and the dashboard, where they are wanted. Other files than a container
    has read are another container."""
    read: dict[str, bytes] = {}
    if site.bundle.api_in_container:
        own = survey.file(api.LOCAL).sha256.encode()
        read["api"] = b"\0".join([*(file.content for file in api_files(site, survey)), own])
    if site.bundle.has_dashboard:
        read["dashboard"] = b"\0".join(file.content for file in dashboard_files(site))
    images = {extra: app_images.reference(site, survey, extra) for extra in app_images.wanted(site)}
    return stack.app_variables(site.bundle, survey.docker, images, read)


def folders(site: Site, survey: Survey) -> Iterator[Difference]:
    wanted = [(api.FOLDER, "root", site.bundle.knobs.app_group, "0750"), (stack.API_STATE, api.USER, api.USER, "0700")]
    if site.bundle.has_dashboard:
        wanted.append((stack.DASHBOARD_FOLDER, "root", api.USER, "0750"))
    yield from folder_differences(wanted, survey)


def files(site: Site, survey: Survey) -> Iterator[Difference]:
    yield from api.keys(site, survey)
    wanted = api_files(site, survey) + (dashboard_files(site) if site.bundle.has_dashboard else [])
    yield from file_differences(wanted, survey)


@deploy("The app's containers")
def app_containers(site: Site) -> None:
    """Before the containers themselves: who they run as, and what they read."""
    converge(site, api.other_way, name="Remove the API's service")
    converge(site, application.account, name="Create the app's group")
    converge(site, api.account, name="Create the API's user")
    converge(site, folders, name="Create the folders of the API and the dashboard")
    converge(site, files, name="Write the settings of the API and the dashboard")
