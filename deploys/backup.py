"""Back up the Redis of each host: sealed to the operator's key, in backups/<environment>, whatever its persistence is.

pyinfra inventory deploys/backup.py                     the newest 7 of each host stay
pyinfra inventory deploys/backup.py --data keep=30 --data drill=yes

With drill=yes each backup is opened, loaded again by a throwaway server on its host, and compared with what runs.
"""

from deploys.site import open_site
from deploys.stages import backing_up, preflight

site = open_site(preflight.question)
plan = backing_up.asked(site)
if site.bundle.is_redis:
    backing_up.back_up(site=site, plan=plan, name="Back up")
