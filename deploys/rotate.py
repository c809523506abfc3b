"""Exchange secrets on running hosts, without one failed request: the new beside the old, then the new alone.

pyinfra inventory deploys/rotate.py --data what=passwords     (or users=cache_service,monitor with it)
                                    --data what=certificates
                                    --data what=ca
                                    --data what=encryption-key
                                    --data what=api-key       (quiet=MINUTES: how long nobody may have used the old, 10)

Clients that cannot know the new yet stop it with their names; restart them and run it again, or add --data force=yes.
A run that died is gone on with by the next. Add --dry to see the plan.
"""

from deploys.site import open_site
from deploys.stages import preflight, rotating
from deploys.stages.proof import proof
from deploys.stages.whole import whole

site = open_site(preflight.question)
rotation = rotating.asked(site)
preflight.preflight(site)

rotating.begin(site=site, rotation=rotation, name="Rotation | Put the new beside the old")
whole(site)
if rotation.what == "api-key":
    if site.bundle.is_app:
        rotating.quiet(site=site, rotation=rotation, name="Rotation | Refuse while the old key is in use")
elif rotation.retires:
    if site.bundle.is_app:
        rotating.note(site=site, rotation=rotation, name="Rotation | Note since when the app has the new")
    if rotation.what == "encryption-key" and site.bundle.is_redis:
        rotating.gate(site=site, rotation=rotation, name="Rotation | Refuse while an app cannot know the new key")
if rotation.advances:
    if rotation.what == "encryption-key":
        rotating.settle(site=site, rotation=rotation, name="Rotation | Let every app see the new key")
    rotating.advance(site=site, rotation=rotation, name="Rotation | Let the new be used")
    whole(site)
    if site.bundle.is_app:
        rotating.note(site=site, rotation=rotation, name="Rotation | Note since when the app uses the new")
if rotation.what == "encryption-key":
    rotating.settle(site=site, rotation=rotation, name="Rotation | Let every app use the new key")
    if site.bundle.is_app:
        rotating.reseal(site=site, rotation=rotation, name="Rotation | Seal every entry anew")
        rotating.count(site=site, rotation=rotation, name="Rotation | Refuse while an entry needs the old key")
elif rotation.ends_sessions and site.bundle.is_redis:
    rotating.gate(site=site, rotation=rotation, name="Rotation | Refuse while clients are connected that cannot know the new")
if rotation.retires:
    rotating.narrow(site=site, rotation=rotation, name="Rotation | Want the new alone")
    whole(site)
    if rotation.ends_sessions and site.bundle.is_redis:
        rotating.end(site=site, rotation=rotation, name="Rotation | End the sessions from before")
rotating.finish(site=site, rotation=rotation, name="Rotation | Forget the old")
if site.bundle.is_app:
    proof(site=site)
