"""Back up the Redis of each host into backups/<environment>, encrypted to the operator's key, whatever its persistence setting.

pyinfra inventory deploys/backup.py                     keeps the newest 7 of each host
pyinfra inventory deploys/backup.py --data keep=30 --data drill=yes

With drill=yes each backup is decrypted, loaded into a throwaway server on its host, and compared with the running one.
"""

from deploys.site import open_site
from deploys.stages import backing_up, preflight

site = open_site(preflight.question)
plan = backing_up.asked(site)
if site.bundle.is_redis:
    backing_up.back_up(site=site, plan=plan, name="Back up")
