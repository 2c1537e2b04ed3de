"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Where a red run costs a submission the examples are the same each time; everywhere else they are new ones.
# How long an example takes says something of the machine, not of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("any machine"), derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
else:
    settings.load_profile("any machine")
