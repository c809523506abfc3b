"""Restore a backup to the Redis of a host: test it first, put it in place with one restart, compare, and undo it if it differs.

pyinfra inventory deploys/restore.py --data file=backups/local/<name>.redkeep

The current data is backed up first. Clients miss while the server restarts. A backup of another host works, too.
"""

from deploys.site import open_site
from deploys.stages import preflight, recovery

site = open_site(preflight.question)
if site.bundle.is_redis:
    plan = recovery.asked(site)
    recovery.restore(site=site, plan=plan, name="Restore")
