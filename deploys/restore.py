"""Bring a backup back to the Redis of a host: tried first, put in place by one restart, compared, undone when it differs.

pyinfra inventory deploys/restore.py --data file=backups/local/<name>.redkeep

What the host has now is backed up first. Clients miss while the server restarts. A backup of another host is welcome.
"""

from deploys.site import open_site
from deploys.stages import preflight, recovery

site = open_site(preflight.question)
if site.bundle.is_redis:
    plan = recovery.asked(site)
    recovery.restore(site=site, plan=plan, name="Restore")
