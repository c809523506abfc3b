"""Replace secrets on running hosts without a failed request: the new beside the old, then only the new.

pyinfra inventory deploys/rotate.py --data what=passwords     (or users=cache_service,monitor with it)
                                    --data what=certificates
                                    --data what=ca
                                    --data what=encryption-key
                                    --data what=api-key       (quiet=MINUTES: how long nobody may have used the old, 10)

It stops and names connected clients that cannot know the new secret; restart them and run it again, or add --data force=yes.
After a run that died, the next one continues. Add --dry to see the plan.
"""

from deploys.site import open_site
from deploys.stages import preflight, rotating
from deploys.stages.proof import proof
from deploys.stages.whole import whole

site = open_site(preflight.question)
rotation = rotating.asked(site)
preflight.preflight(site)

rotating.begin(site=site, rotation=rotation, name="Rotation | Create the new secret beside the old")
whole(site)
if rotation.what == "api-key":
    if site.bundle.is_app:
        rotating.quiet(site=site, rotation=rotation, name="Rotation | Refuse while the old key is in use")
elif rotation.retires:
    if site.bundle.is_app:
        rotating.note(site=site, rotation=rotation, name="Rotation | Note when the app received the new secret")
    if rotation.what == "encryption-key" and site.bundle.is_redis:
        rotating.gate(site=site, rotation=rotation, name="Rotation | Refuse while an app cannot know the new key")
if rotation.advances:
    if rotation.what == "encryption-key":
        rotating.settle(site=site, rotation=rotation, name="Rotation | Let every app see the new key")
    rotating.advance(site=site, rotation=rotation, name="Rotation | Start using the new secret")
    whole(site)
    if site.bundle.is_app:
        rotating.note(site=site, rotation=rotation, name="Rotation | Note when the app began to use the new secret")
if rotation.what == "encryption-key":
    rotating.settle(site=site, rotation=rotation, name="Rotation | Let every app use the new key")
    if site.bundle.is_app:
        rotating.reseal(site=site, rotation=rotation, name="Rotation | Re-encrypt every entry")
        rotating.count(site=site, rotation=rotation, name="Rotation | Refuse while an entry needs the old key")
elif rotation.ends_sessions and site.bundle.is_redis:
    rotating.gate(site=site, rotation=rotation, name="Rotation | Refuse while connected clients cannot know the new secret")
if rotation.retires:
    rotating.narrow(site=site, rotation=rotation, name="Rotation | Accept only the new secret")
    whole(site)
    if rotation.ends_sessions and site.bundle.is_redis:
        rotating.end(site=site, rotation=rotation, name="Rotation | End the sessions that used the old secret")
rotating.finish(site=site, rotation=rotation, name="Rotation | Delete the old secret")
if site.bundle.is_app:
    proof(site=site)
