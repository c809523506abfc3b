"""Show, host by host, what differs from what is wanted: on disk and in what runs. Changes nothing.

pyinfra -y inventory deploys/status.py        exit code 1 when a host has drifted
"""

from deploys.site import open_site
from deploys.stages import preflight
from deploys.stages.report import report
from deploys.stages.whole import whole

site = open_site(preflight.question, reporting=True)

whole(site)
report(site=site)
