"""The version of Domus, in this one place for agent, manager and commands; galaxy.yml and pyproject.toml say the same."""

from __future__ import annotations

VERSION = "0.1.0"
