"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Where a red run costs a submission the examples are the same each time; everywhere else they are new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")
