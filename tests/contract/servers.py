"""The servers that the contract is tried on: each gives the modules' `uri`, holds images, and tells what is on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEMPLATE_SIZE = 1 << 30


class FakeServer:
    """A server in a file: see domus_core.fake_driver.file_driver."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "server.json"
        self.parameters = {"uri": f"fake://{self.file}", "state_directory": str(directory)}
        files = {
            "main/Templates/debian-12.qcow2": {"format": "qcow2", "size": TEMPLATE_SIZE},
            "main/ISOs/debian-12-netinst.iso": {"format": "raw", "size": 1 << 20},
        }
        self.file.write_text(json.dumps({"format": 1, "server": {"virtualization": "qemu"}, "objects": {}, "files": files}))

    def written(self) -> Any:
        """Everything that an apply could have written, to be compared."""
        return self.file.read_bytes(), sorted(path.name for path in self.directory.iterdir() if path.suffix != ".lock")

    def close(self) -> None:
        """Nothing runs, so there is nothing to end."""


# The contract holds for every one of them.
SERVERS = {"fake": FakeServer}
