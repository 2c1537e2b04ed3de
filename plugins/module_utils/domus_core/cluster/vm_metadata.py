"""What `ocf:domus:vm` says of itself, by the OCF resource agent API 1.1."""

from __future__ import annotations

METADATA = """<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="vm" version="1.0">
<version>1.1</version>
<longdesc lang="en">
A virtual machine of a Domus server pool, on libvirt and QEMU/KVM. Its definition is read from the pool file system; whether it runs is
proven by the server's processes, not by libvirtd or by a file. Neither parameter ever changes: what may change is in the pool's record.
</longdesc>
<shortdesc lang="en">Virtual machine of a Domus server pool</shortdesc>
<parameters>
<parameter name="name" required="1">
<longdesc lang="en">Name of the virtual machine, as libvirt knows it.</longdesc>
<shortdesc lang="en">Name</shortdesc>
<content type="string"/>
</parameter>
<parameter name="uuid" required="1">
<longdesc lang="en">UUID of the virtual machine: by this its processes and its record are known.</longdesc>
<shortdesc lang="en">UUID</shortdesc>
<content type="string"/>
</parameter>
</parameters>
<actions>
<action name="start" timeout="120s"/>
<action name="stop" timeout="180s"/>
<action name="monitor" timeout="120s" interval="10s" depth="0"/>
<action name="migrate_to" timeout="3600s"/>
<action name="migrate_from" timeout="60s"/>
<action name="validate-all" timeout="30s"/>
<action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
"""
