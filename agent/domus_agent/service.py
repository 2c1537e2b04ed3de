"""How the agent's service is spoken of: by systemd's commands where that runs."""

from __future__ import annotations

import os

SYSTEMD = "/run/systemd/system"


def advice(word: str, otherwise: str) -> str:
    """`systemctl WORD domus-agent`, or the other words where no systemd runs."""
    return f"systemctl {word} domus-agent" if os.path.isdir(SYSTEMD) else otherwise
