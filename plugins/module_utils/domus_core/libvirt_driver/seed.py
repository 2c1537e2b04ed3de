"""cloud-init seed images: NoCloud (https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import Any, Optional

from ..model.secrets import Secret, new_salt
from ..model.vm_devices import CloudInitSpec
from .tools import run

LABEL = "cidata"
FILES = {"user_data": "user-data", "meta_data": "meta-data", "network_config": "network-config"}
SECONDS = 60.0


def make_seed(folder: str, vm: str, uuid: str, wanted: CloudInitSpec, before: Optional[str]) -> str:
    """Make the seed image of a VM in `folder` and return its path; what `wanted` does not say is kept from the image `before`.

    The name holds a salted hash of the content, so another content is another file. Raises Unsupported without xorriso.
    """
    content = {"meta_data": f"instance-id: {uuid}\nlocal-hostname: {vm}\n", "user_data": "#cloud-config\n{}\n"}
    content.update(_kept(before))
    content.update(_given(wanted))
    mark = hashlib.sha256(new_salt().encode() + repr(sorted(content.items())).encode()).hexdigest()[:12]
    path = os.path.join(folder, f"{vm}-cloud-init-{mark}.iso")
    os.makedirs(folder, mode=0o711, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".seed-") as work:
        names = [_write(work, FILES[name], text) for name, text in content.items()]
        image = os.path.join(work, "seed.iso")
        # 0600 throughout: the seed holds secrets; libvirt gives the file to QEMU's user when the VM starts
        run(["xorriso", "-as", "mkisofs", "-quiet", "-V", LABEL, "-J", "-r", "-o", image, *names], timeout=SECONDS, what="making the cloud-init seed")
        os.chmod(image, 0o600)
        os.rename(image, path)
    return path


def _given(wanted: CloudInitSpec) -> dict[str, str]:
    values: dict[str, Any] = {name: getattr(wanted, name) for name in FILES}
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in values.items() if isinstance(value, (str, Secret))}


def _kept(before: Optional[str]) -> dict[str, str]:
    if before is None or not os.path.exists(before):
        return {}
    with tempfile.TemporaryDirectory(prefix="domus-seed-") as work:
        target = os.path.join(work, "seed")
        run(["xorriso", "-osirrox", "on", "-indev", before, "-extract", "/", target], timeout=SECONDS, what="reading the cloud-init seed")
        return {name: _read(os.path.join(target, file)) for name, file in FILES.items() if os.path.exists(os.path.join(target, file))}


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write(folder: str, name: str, text: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
        file.write(text)
    return path


def remove_seed(path: Optional[str]) -> None:
    """Delete a seed image that no VM needs any more."""
    if path and "-cloud-init-" in os.path.basename(path) and os.path.exists(path):
        os.unlink(path)
