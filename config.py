"""pyinfra's defaults for this bundle."""

from pyinfra import config

from deploys.invocation import invocation
from deploys.pace import order_operations_by_frames

config.REQUIRE_PYINFRA_VERSION = "~=3.10"
config.FAIL_PERCENT = 0

invocation()
order_operations_by_frames()
