"""pyinfra's defaults for this bundle."""

from pyinfra import config

from deploys.invocation import invocation

config.REQUIRE_PYINFRA_VERSION = "~=3.10"
config.FAIL_PERCENT = 0

invocation()
