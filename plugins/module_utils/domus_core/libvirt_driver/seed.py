"""cloud-init seed images: NoCloud (https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html)."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Optional

from ..model.secrets import Secret, new_salt
from ..model.vm_devices import CloudInitSpec
from .tools import explain, make_folder, run

LABEL = "cidata"
FILES = {"user_data": "user-data", "meta_data": "meta-data", "network_config": "network-config"}
SECONDS = 60.0


def make_seed(folder: str, vm: str, uuid: str, wanted: CloudInitSpec, before: Optional[str]) -> str:
    """Make the seed image of a VM in `folder` and return its path; what `wanted` does not say is kept from the image `before`.

    The name holds a salted hash of the content, so another content is another file. Raises Unsupported without xorriso, NoCapacity.
    """
    with _work_folder(folder, vm) as work:
        content = {"meta_data": f"instance-id: {uuid}\nlocal-hostname: {vm}\n", "user_data": "#cloud-config\n{}\n"}
        content.update(_kept(before, work))
        content.update(_given(wanted))
        mark = hashlib.sha256(new_salt().encode() + repr(sorted(content.items())).encode()).hexdigest()[:12]
        path = os.path.join(folder, f"{vm}-cloud-init-{mark}.iso")
        names = [_write(work, FILES[name], text) for name, text in content.items()]
        image = os.path.join(work, "seed.iso")
        # 0600 throughout: the seed holds secrets; libvirt gives the file to QEMU's user when the VM starts
        run(["xorriso", "-as", "mkisofs", "-quiet", "-V", LABEL, "-J", "-r", "-o", image, *names], timeout=SECONDS, what="making the cloud-init seed")
        os.chmod(image, 0o600)
        os.rename(image, path)
    return path


@contextmanager
def _work_folder(folder: str, vm: str) -> Iterator[str]:
    """A folder that only root can read; the VM is locked, so one that is there is what a killed run left."""
    path = os.path.join(folder, f".{vm}-cloud-init.partial")
    try:
        make_folder(folder, 0o711)
        discard_work(folder, vm)
        os.mkdir(path, mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path)
    except OSError as error:
        raise explain(error, "making the cloud-init seed", folder) from None


def discard_work(folder: str, vm: str) -> None:
    """Delete what a killed run left of making a seed image of the VM."""
    with suppress(FileNotFoundError):
        shutil.rmtree(os.path.join(folder, f".{vm}-cloud-init.partial"))


def _given(wanted: CloudInitSpec) -> dict[str, str]:
    values: dict[str, Any] = {name: getattr(wanted, name) for name in FILES}
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in values.items() if isinstance(value, (str, Secret))}


def _kept(before: Optional[str], work: str) -> dict[str, str]:
    if before is None or not os.path.exists(before):
        return {}
    target = os.path.join(work, "before")
    run(["xorriso", "-osirrox", "on", "-indev", before, "-extract", "/", target], timeout=SECONDS, what="reading the cloud-init seed")
    return {name: _read(os.path.join(target, file)) for name, file in FILES.items() if os.path.exists(os.path.join(target, file))}


def _read(path: str) -> str:
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def _write(folder: str, name: str, text: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8", newline="", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
        file.write(text)
    return path


def remove_seed(path: Optional[str]) -> None:
    """Delete a seed image that no VM needs any more."""
    if path and "-cloud-init-" in os.path.basename(path) and os.path.exists(path):
        os.unlink(path)
