"""Show, host by host, what differs from the wanted state, on disk and in the running system. Changes nothing.

pyinfra -y inventory deploys/status.py        exit code 1 when a host has drifted
In the middle of a migration a host is compared with the state of its stage.
"""

from deploys.migration import course
from deploys.site import open_site
from deploys.stages.report import report
from deploys.stages.whole import whole

site = open_site(course.question, reporting=True)

if course.under_way(site):
    course.compare(site)
else:
    whole(site)
report(site=site)
