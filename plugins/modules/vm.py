#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vm
short_description: Make, change, start, stop and delete VMs
version_added: 0.1.0
description:
  - Makes one VM as the task wants it, with its disks, NICs and drives, and puts it into the wanted run state.
  - An existing VM is changed in place and keeps its UUID, its MAC addresses and everything that Domus does not manage. What
    libvirt can change while the VM runs is changed at once; the rest goes into its definition and is named in RV(restart_required).
    The module never restarts a VM unasked.
  - Options that are left out are not managed. Disks, drives and NICs are known by their names, and those not mentioned stay,
    unless O(exact=true).
  - A VM that Domus did not make is neither changed nor deleted, unless O(adopted=true).
author: The Domus developers (!UNKNOWN)
extends_documentation_fragment:
  - domus.virt.common
  - domus.virt.common.transport
  - domus.virt.common.site
  - domus.virt.common.wait
  - domus.virt.common.address
  - domus.virt.attributes
options:
  name:
    description:
      - Name, unique on the server.
    type: str
    required: true
  server:
    description:
      - The server where it starts its life, not where it must stay.
    type: str
  pool:
    description:
      - The server pool where it starts its life; needs a manager.
    type: str
  ha:
    description:
      - 'High availability: how its server pool keeps it up.'
    type: dict
    suboptions:
      enabled:
        description:
          - 'Its pool keeps it up: it is started again where it can be.'
          - A new object gets C(false).
        type: bool
      priority:
        description:
          - Who is given room first when several were lost; never the room of a VM that runs.
          - A new object gets C(0).
        type: int
      start_after:
        description:
          - Where these start with it, it starts after them.
        type: list
        elements: str
      start_delay:
        description:
          - Seconds after its start until those that start after it do.
          - A new object gets C(0).
        type: int
      restart_limit:
        description:
          - After so many failures on a server it is tried on another.
          - A new object gets C(3).
        type: int
      restart_window:
        description:
          - Seconds after which a failure is forgotten.
          - A new object gets C(600).
        type: int
      preferred_servers:
        description:
          - It starts on the first of these that has room; it is not moved there.
        type: list
        elements: str
      start_policy:
        description:
          - Where it starts.
          - A new object gets the pool's.
        type: str
        choices:
          - best
          - balanced
          - current
      on_shutdown:
        description:
          - When its guest shuts itself down. A crash is always followed by a restart.
          - A new object gets C(stay_off).
        type: str
        choices:
          - stay_off
          - restart
  server_tags:
    description:
      - It is placed only on servers that have all these tags; needs a manager.
    type: list
    elements: str
  anti_affinity:
    description:
      - 'Anti-affinity groups it belongs to: no two VMs of a group are placed on one server; needs a manager.'
    type: list
    elements: str
  cpu_group:
    description:
      - It is placed only on servers of this CPU compatibility group; needs a manager.
    type: str
  description:
    description:
      - Free text.
    type: str
  tags:
    description:
      - Labels.
    type: list
    elements: str
  cpus:
    description:
      - Virtual CPUs now; changes live up to cpus_max.
      - A new object gets C(1).
    type: int
  cpus_max:
    description:
      - Virtual CPUs at most.
      - A new object gets the value of C(cpus).
      - A change waits for the next restart.
    type: int
  memory:
    description:
      - Memory now; changes live up to memory_max.
      - Bytes, or a number with C(KiB), C(MiB), C(GiB) or C(TiB).
      - A new object gets C(512MiB).
    type: str
  memory_max:
    description:
      - Memory at most.
      - Bytes, or a number with C(KiB), C(MiB), C(GiB) or C(TiB).
      - A new object gets the value of C(memory).
      - A change waits for the next restart.
    type: str
  cpu_model:
    description:
      - 'C(host-passthrough), C(host-model), C(maximum), or a name that libvirt knows; left out: libvirt''s choice.'
      - A change waits for the next restart.
    type: str
  cpu_baseline:
    description:
      - A CPU that all servers of its cpu_group have; a manager fills it in, as libvirt computes it, where cpu_model is left
        out.
      - A change waits for the next restart.
    type: dict
    suboptions:
      model:
        description:
          - The model's name.
          - A change waits for the next restart.
        type: str
        required: true
      vendor:
        description:
          - Its vendor.
          - A change waits for the next restart.
        type: str
      require:
        description:
          - Features beyond the model.
          - A change waits for the next restart.
        type: list
        elements: str
      disable:
        description:
          - Features of the model that it lacks.
          - A change waits for the next restart.
        type: list
        elements: str
  cpu_topology:
    description:
      - Layout of the vCPUs; its product is cpus_max.
      - A change waits for the next restart.
    type: dict
    suboptions:
      sockets:
        description:
          - Sockets.
          - A change waits for the next restart.
        type: int
        required: true
      cores:
        description:
          - Cores a socket.
          - A change waits for the next restart.
        type: int
        required: true
      threads:
        description:
          - Threads a core.
          - A change waits for the next restart.
        type: int
        required: true
  firmware:
    description:
      - Firmware.
      - A new object gets C(bios).
      - It can be set only when the object is made; a difference later is refused.
    type: str
    choices:
      - bios
      - uefi
      - uefi-secure
  machine:
    description:
      - Machine type; an alias such as q35 or pc is content with any version of it.
      - A new object gets C(q35).
      - A change waits for the next restart.
    type: str
  architecture:
    description:
      - Processor architecture.
      - A new object gets the server's.
      - It can be set only when the object is made; a difference later is refused.
    type: str
    choices:
      - x86_64
      - aarch64
      - i686
  virtualization:
    description:
      - Virtualization type; C(auto) takes the server's.
      - A new object gets C(auto).
      - It can be set only when the object is made; a difference later is refused.
    type: str
    choices:
      - auto
      - kvm
      - qemu
  boot:
    description:
      - Boot order by class; goes not with boot_index of a device.
      - A change waits for the next restart.
    type: list
    elements: str
    choices:
      - disk
      - cdrom
      - network
  kernel:
    description:
      - Boot this kernel directly.
      - A change waits for the next restart.
    type: dict
    suboptions:
      kernel:
        description:
          - Kernel, in the Templates folder of a repository.
          - A change waits for the next restart.
        type: str
        required: true
      initrd:
        description:
          - Its initial RAM disk.
          - A change waits for the next restart.
        type: str
      arguments:
        description:
          - Its command line.
          - A change waits for the next restart.
        type: str
  disks:
    description:
      - Disks, known by name; those not mentioned stay.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - What the disk is known by in this VM.
        type: str
        required: true
      repository:
        description:
          - 'Where its virtual disk is made; left out: beside the template or image.'
          - It can be set only when the object is made; a difference later is refused.
        type: str
      template:
        description:
          - Make it from this template.
          - It can be set only when the object is made; a difference later is refused.
        type: str
      image:
        description:
          - Make it from this image, in the Templates folder of a repository.
          - It can be set only when the object is made; a difference later is refused.
        type: str
      virtual_disk:
        description:
          - 'Use this virtual disk: repository/name.'
          - It can be set only when the object is made; a difference later is refused.
        type: str
      file:
        description:
          - 'Use this file as it lies, by its place in the repository''s directory: for VMs that were adopted.'
          - It can be set only when the object is made; a difference later is refused.
        type: str
      clone:
        description:
          - How it is made from a template or image.
          - A new object gets thin for a template, sparse for an image.
          - It can be set only when the object is made; a difference later is refused.
        type: str
        choices:
          - thin
          - sparse
          - full
      size:
        description:
          - Its size; it can grow, also while the VM runs, never shrink.
          - Bytes, or a number with C(KiB), C(MiB), C(GiB) or C(TiB).
        type: str
      format:
        description:
          - Image format.
          - A new object gets C(qcow2).
          - It can be set only when the object is made; a difference later is refused.
        type: str
        choices:
          - qcow2
          - raw
      sparse:
        description:
          - Take room only as it is written.
          - A new object gets C(true).
          - It can be set only when the object is made; a difference later is refused.
        type: bool
      shareable:
        description:
          - Other VMs may use it at the same time (raw only).
          - A new object gets C(false).
          - A change waits for the next restart.
        type: bool
      read_only:
        description:
          - The VM can not write to it.
          - A new object gets C(false).
          - A change waits for the next restart.
        type: bool
      bus:
        description:
          - How the VM sees it.
          - A new object gets C(virtio).
          - A change waits for the next restart.
        type: str
        choices:
          - virtio
          - scsi
          - sata
          - ide
          - usb
      cache:
        description:
          - Host caching.
          - A change waits for the next restart.
        type: str
        choices:
          - default
          - none
          - writethrough
          - writeback
          - directsync
          - unsafe
      discard:
        description:
          - Whether what the guest trims gives room back.
          - A change waits for the next restart.
        type: str
        choices:
          - unmap
          - ignore
      serial:
        description:
          - Serial number the VM sees.
          - A change waits for the next restart.
        type: str
      boot_index:
        description:
          - Place in the boot order.
          - A change waits for the next restart.
        type: int
  cdroms:
    description:
      - CD-ROM drives, known by name; those not mentioned stay.
      - A change waits for the next restart.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - What the drive is known by in this VM.
        type: str
        required: true
      iso:
        description:
          - The ISO in it, by name; an empty string ejects.
        type: str
      bus:
        description:
          - How the VM sees it.
          - A new object gets sata, or ide on machine pc.
          - A change waits for the next restart.
        type: str
        choices:
          - sata
          - ide
          - scsi
          - usb
      boot_index:
        description:
          - Place in the boot order.
          - A change waits for the next restart.
        type: int
  nics:
    description:
      - Network interfaces, known by name; those not mentioned stay.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - What the NIC is known by in this VM.
        type: str
        required: true
      network:
        description:
          - The network it is connected to.
        type: str
      bridge:
        description:
          - A bridge of the server, instead of a network.
        type: str
      model:
        description:
          - How the VM sees it.
          - A new object gets C(virtio).
          - A change waits for the next restart.
        type: str
        choices:
          - virtio
          - e1000
          - e1000e
          - rtl8139
      mac:
        description:
          - 'Its MAC address; left out: derived from site, VM and NIC.'
          - A change waits for the next restart.
        type: str
      filter:
        description:
          - libvirt network filter.
        type: str
      link:
        description:
          - Whether its cable is plugged in.
          - A new object gets C(up).
        type: str
        choices:
          - up
          - down
      boot_index:
        description:
          - Place in the boot order.
          - A change waits for the next restart.
        type: int
  serial_console:
    description:
      - A serial console (C(virsh console)).
      - A new object gets C(true).
      - A change waits for the next restart.
    type: bool
  vnc:
    description:
      - A graphical console.
      - A change waits for the next restart.
    type: dict
    suboptions:
      enabled:
        description:
          - Whether there is one.
          - A new object gets C(true).
          - A change waits for the next restart.
        type: bool
      listen:
        description:
          - Address it listens on.
          - A new object gets C(127.0.0.1).
          - A change waits for the next restart.
        type: str
      password:
        description:
          - Password, 8 ASCII characters at most (RFC 6143 7.2.2).
          - A change waits for the next restart.
          - 'Secret: it is never shown, logged or told in a difference.'
        type: str
  video:
    description:
      - Graphics card.
      - A new object gets vga with vnc, else none.
      - A change waits for the next restart.
    type: str
    choices:
      - none
      - vga
      - virtio
      - bochs
      - qxl
      - cirrus
  rng:
    description:
      - A source of randomness.
      - A new object gets C(true).
      - A change waits for the next restart.
    type: bool
  watchdog:
    description:
      - A watchdog device.
      - A change waits for the next restart.
    type: dict
    suboptions:
      model:
        description:
          - The device.
          - A new object gets C(i6300esb).
          - A change waits for the next restart.
        type: str
        choices:
          - i6300esb
          - ib700
      action:
        description:
          - What happens when the guest no longer feeds it.
          - A new object gets C(reset).
          - A change waits for the next restart.
        type: str
        choices:
          - reset
          - shutdown
          - poweroff
          - pause
          - none
          - dump
          - inject-nmi
  guest_agent:
    description:
      - A channel for the QEMU guest agent.
      - A new object gets C(true).
      - A change waits for the next restart.
    type: bool
  cloud_init:
    description:
      - What the guest's cloud-init is told; renewed when it changes, read by the guest at its next start.
      - A change waits for the next restart.
    type: dict
    suboptions:
      user_data:
        description:
          - user-data, as text.
          - A change waits for the next restart.
          - 'Secret: it is never shown, logged or told in a difference.'
        type: str
      meta_data:
        description:
          - 'meta-data, as text; left out: instance-id (the UUID) and local-hostname (the name).'
          - A change waits for the next restart.
        type: str
      network_config:
        description:
          - network-config, as text.
          - A change waits for the next restart.
          - 'Secret: it is never shown, logged or told in a difference.'
        type: str
  clock:
    description:
      - What the VM's clock is set to.
      - A new object gets C(utc).
      - A change waits for the next restart.
    type: str
    choices:
      - utc
      - localtime
  on_poweroff:
    description:
      - What happens when the guest powers off.
      - A new object gets C(destroy).
      - A change waits for the next restart.
    type: str
    choices:
      - destroy
      - restart
  on_reboot:
    description:
      - What happens when the guest restarts.
      - A new object gets C(restart).
      - A change waits for the next restart.
    type: str
    choices:
      - destroy
      - restart
  on_crash:
    description:
      - What happens when the guest crashes.
      - A new object gets C(destroy).
      - A change waits for the next restart.
    type: str
    choices:
      - destroy
      - restart
      - preserve
      - coredump-destroy
      - coredump-restart
  autostart:
    description:
      - Start it with the server.
      - A new object gets C(false).
    type: bool
  state:
    description:
      - 'Run state: C(suspended) is saved to disk; C(absent) deletes the VM and keeps its disks. Left out: not managed.'
    type: str
    choices:
      - running
      - stopped
      - suspended
      - paused
      - absent
  stop_timeout:
    description:
      - Seconds the guest gets to shut down by itself.
      - A new object gets C(120).
    type: int
  force_stop:
    description:
      - Power it off when the guest did not shut down in time.
      - A new object gets C(false).
    type: bool
  exact:
    description:
      - Disks, CD-ROM drives and NICs that are not mentioned are taken away (files stay).
      - A new object gets C(false).
    type: bool
  delete_disks:
    description:
      - 'With state absent: delete the disks that Domus made for it, too.'
      - A new object gets C(false).
    type: bool
  adopted:
    description:
      - It was not made by Domus and may be managed, and deleted, by it.
    type: bool
  generation:
    description:
      - The generation this specification was made from; refused when the VM has another.
    type: int
seealso:
  - module: domus.virt.vm_info
  - module: domus.virt.apply
"""

EXAMPLES = r"""
- name: A running VM from a template, waited for until it has an address
  domus.virt.vm:
    name: web1
    cpus: 2
    memory: 2GiB
    memory_max: 4GiB
    disks:
      - {name: root, template: debian12, clone: thin, size: 20GiB}
    nics:
      - {name: eth0, network: lan}
    cloud_init:
      user_data: |
        #cloud-config
        hostname: web1
    state: running
    wait_for: address
  register: web1

- name: More memory and one more disk, while it runs
  domus.virt.vm:
    name: web1
    memory: 3GiB
    disks:
      - {name: data, repository: main, size: 100GiB}

- name: Put an ISO image into its drive
  domus.virt.vm:
    name: web1
    cdroms:
      - {name: cd, iso: debian12-netinst}
  register: drive

- name: Say what waits for a restart
  ansible.builtin.debug:
    msg: "{{ drive.restart_required }}"

- name: Shut it down; power it off when the guest takes more than a minute
  domus.virt.vm:
    name: web1
    state: stopped
    stop_timeout: 60
    force_stop: true

- name: Delete it, with the disks that were made for it
  domus.virt.vm:
    name: web1
    state: absent
    delete_disks: true
"""

RETURN = r"""
actions:
  description: 'The steps that were taken, or would be in check mode: action, kind and name.'
  returned: always
  type: list
  elements: str
  sample:
    - create virtual_disk main/web1-root
    - create vm web1
    - start vm web1
error:
  description: 'What was wrong: a stable C(code), the message, and where known C(object), C(field), C(value) and C(remedy).'
  returned: on failure
  type: dict
  sample:
    code: conflict
    message: 'a disk can not shrink: it has 20GiB'
    object: vm web1
    field: disks[root].size
    value: 10GiB
restart_required:
  description: The fields whose definition has changed and that wait for a restart of the object.
  returned: always
  type: list
  elements: str
object:
  description: The object as it was measured after the task, in check mode before it.
  returned: always
  type: dict
  contains:
    kind:
      description: The kind of the object.
      returned: always
      type: str
    name:
      description: What it is known by; C(repository/name) for a virtual disk.
      returned: always
      type: str
    state:
      description: In which state it is.
      returned: always
      type: str
    uuid:
      description: Its UUID.
      returned: when the object exists
      type: str
    memory:
      description: The memory that its guest has now in bytes; null when it does not run.
      returned: when the object exists
      type: int
    persistent:
      description: Whether libvirt keeps a definition of it.
      returned: when the object exists
      type: bool
    managed:
      description: Whether Domus manages it.
      returned: when the object exists
      type: bool
    generation:
      description: How often its specification was changed.
      returned: when the object exists
      type: int
    site:
      description: The site that it belongs to.
      returned: when the object exists
      type: str
    addresses:
      description: Its IP addresses, as far as they are known.
      returned: when the object exists
      type: list
    vnc_port:
      description: The port of its graphical console.
      returned: when the object exists
      type: int
"""

from ansible_collections.domus.virt.plugins.module_utils.module_glue import run_resource_module


def main() -> None:
    """Run the module."""
    run_resource_module("vm")


if __name__ == "__main__":
    main()
