"""The texts of the reference that the field tables do not hold; generate_reference.py puts them together."""

from __future__ import annotations

# A module's short description, then its description.
MODULES: dict[str, tuple[str, ...]] = {
    "server": (
        "What Domus is to know of a server, and which virtualization it uses",
        "Writes down what is wanted of the server that the task runs on.",
    ),
    "network": (
        "Make, change and delete networks of VMs",
        "Makes one network as the task wants it: behind the server's address, routed, isolated, or on a bridge of the server.",
        "An existing network is changed in place, without a restart where libvirt can; options that are left out are not managed.",
        "A network that Domus did not make is neither changed nor deleted, unless the task says `adopted=true`.",
    ),
    "repository": (
        "Directories for virtual disks, ISO images and templates",
        "Makes a directory of the server known, with the folders VirtualDisks, ISOs and Templates in it.",
        "Forgetting a repository keeps its files.",
    ),
    "server_pool": (
        "Form, change and end server pools",
        "Makes servers a pool. A clustered pool runs Corosync and Pacemaker on its servers, so that VMs of a server that died start on another.",
        "A clustered pool is formed by a manager, which knows all of its servers (O(transport=manager)), or by the playbook C(domus.virt.server_pools).",
        "Servers come and go without a VM being touched: name them in O(servers), or leave them out. A server does not leave while HA VMs run on it.",
        "A list that is given (O(servers), O(heartbeat), O(fencing)) is the whole list.",
    ),
    "virtual_disk": (
        "Make, grow and delete virtual disks",
        "Makes one image file in a repository: empty, or from a template or an image.",
        "A disk can grow, also while a VM uses it, and never shrinks. One that is in use, or that Domus did not make, is not deleted.",
    ),
    "iso": (
        "Make ISO images known, to be put into the drives of VMs",
        "Makes the image of an optical disc known, which is in the ISOs folder of a repository. Forgetting it keeps the file.",
    ),
    "template": (
        "Make images known, that disks of VMs are made from",
        "Makes an image known, which is in the Templates folder of a repository. Forgetting it keeps the file.",
    ),
    "vm": (
        "Make, change, start, stop and delete VMs",
        "Makes one VM as the task wants it, with its disks, NICs and drives, and puts it into the wanted run state.",
        "An existing VM is changed in place and keeps its UUID, its MAC addresses and everything that Domus does not manage."
        " What libvirt can change while the VM runs is changed at once; the rest goes into its definition and is named in RV(restart_required)."
        " The module never restarts a VM unasked.",
        "Options that are left out are not managed. Disks, drives and NICs are known by their names, and those not mentioned stay, unless O(exact=true).",
        "A VM that Domus did not make is neither changed nor deleted, unless O(adopted=true).",
    ),
    "apply": (
        "Make a server match a site document",
        "Applies a whole site document in one task, ordered by dependency: networks, repositories, templates, ISO images, virtual disks and VMs.",
        "The document is read from a file on the control node, and nothing in it is a template: what looks like one arrives as it is written.",
        "In a play with several hosts each host takes from the document what concerns it, and every VM must name its O(server).",
        "Everything is checked before anything is touched. When an object fails after that, those that do not need it go on, and the task fails in the end.",
    ),
} | {
    f"{kind}_info": (f"Tell of the {noun} of a server", f"Returns the {noun} that there are on the server, {more}. Nothing is changed.")
    for kind, noun, more in (
        ("server", "capabilities and facts", "and what Domus was told of it"),
        ("network", "networks", "Domus's own and others"),
        ("repository", "repositories", "with their capacity and free room"),
        ("server_pool", "server pools", "that the server is in"),
        ("virtual_disk", "virtual disks", "those of VMs and others"),
        ("iso", "ISO images", "that Domus knows"),
        ("template", "templates", "that Domus knows"),
        ("vm", "VMs", "Domus's own and others"),
    )
}

# Options that are in no field table.
OPTIONS: dict[str, str] = {
    "name": "Tell only of the one with this name.",
    "repository": "Tell only of those in this repository.",
    "site": "The site that the document is for.",
    "as_document": "Return a site document with every field of the VMs, as they are now, and a list of what in their definitions Domus does not manage."
    " Applying that document changes nothing and makes Domus manage them.",
    "file": "The site document on the control node, YAML or JSON, if need be encrypted by Ansible Vault. Looked for like the files of M(ansible.builtin.copy)."
    " Required unless O(transport=agent).",
    "targets_file": "What a manager wrote for one of its jobs. Used only when O(transport=agent).",
    "transport": "How the document reaches the engine: V(local) on every host of the play, V(manager) from the control node by the API of the manager,"
    " which knows where everything is (use C(run_once) in a play with several hosts). V(agent) is for the jobs of a manager only."
    " Left out, it comes from E(DOMUS_TRANSPORT).",
    "server": "Which of the document's servers this host is. Left out, it is the one with the host's name in the inventory.",
    "document_json": "What was read from O(file). It is filled in by the action plugin, and refused in tasks.",
}

# For each kind what is measured of its objects: the text and Ansible's type.
MEASURED: dict[str, dict[str, tuple[str, str]]] = {
    "server": {
        "virtualization": ("The virtualization type that new VMs get.", "str"),
        "domain_types": ("The virtualization types that libvirt offers.", "list"),
        "machines": ("The machine types that VMs can have.", "list"),
        "facts": (
            "Hardware, versions and capabilities of the server; sizes in bytes: among them `uuid` (libvirt's host UUID), `cpu` (model, vendor, features"
            " that its model does not have, and the XML that libvirt compares), `guest_cpu_xml` and `guest_cpu` (what `host-model` gives, as XML and as data),"
            " `cpus`, `cpu_topology`, `memory`,"
            " `numa_cells` (memory, cpus and distances), `libvirt_version` and `hypervisor_version`; in `measured` also what the kernel tells: `kernel`,"
            " `distribution`, `booted_at`, `machine`, `block_devices` (size, rotational, model, wwn), `interfaces` (kind, link, speed in Mbit/s, ports of"
            " bridges and bonds) and `huge_pages`.",
            "dict",
        ),
    },
    "network": {
        "uuid": ("Its UUID.", "str"),
        "active": ("Whether it runs.", "bool"),
        "bridge": ("The bridge of the server that it is on.", "str"),
        "leases": ("How many DHCP leases it has given out.", "int"),
        "made_by_domus": ("Whether Domus made it.", "bool"),
    },
    "repository": {
        "capacity": ("Size of its file system in bytes.", "int"),
        "free": ("Free room of its file system in bytes.", "int"),
        "available": ("Whether its directory is there.", "bool"),
        "registered": ("Whether Domus knows it.", "bool"),
        "mounted": ("Whether it is mounted; null for a directory that Domus does not mount.", "bool"),
        "shared": ("Whether it is the same files on every server that it is presented to.", "bool"),
        "file_system": ("The type of its file system.", "str"),
        "uuid": ("What a shared repository is known by everywhere.", "str"),
        "lease": ("Seconds after which the locks of a server that died fall; null when that is not told.", "int"),
        "problem": ("Why it is not available.", "str"),
        "not_for_ha": ("Why VMs on it can not be restarted on another server.", "str"),
    },
    "server_pool": {
        "registered": ("Whether a document has named it; a role may have made the cluster.", "bool"),
        "joined": ("Whether the server is a member of the cluster now.", "bool"),
        "quorate": ("Whether it belongs to the part that may act.", "bool"),
        "members": ("The members that are there, by the names that they have for themselves.", "list"),
        "vms": ("The HA VMs that run on the server.", "list"),
        "amiss": ("What on the server is not as it was written: files, services, Pacemaker's configuration.", "list"),
        "lease": ("Seconds after which the locks of a server that died fall; null when that is not told.", "int"),
    },
    "virtual_disk": {
        "path": ("Its file.", "str"),
        "allocated": ("The room it takes in bytes.", "int"),
        "backing": ("The file that a thin clone keeps its differences to.", "str"),
        "owner": ("The UUID of the VM that it was made for.", "str"),
        "made_by_domus": ("Whether Domus made it.", "bool"),
        "repository_uuid": ("The UUID of the shared repository that it lies in.", "str"),
    },
    "iso": {
        "path": ("Its file.", "str"),
        "size": ("The size of the file in bytes.", "int"),
        "available": ("Whether the file is there.", "bool"),
        "repository_uuid": ("The UUID of the shared repository that it lies in.", "str"),
    },
    "template": {
        "path": ("Its file.", "str"),
        "format": ("The format of the image.", "str"),
        "size": ("The size of a disk made from it in bytes.", "int"),
        "available": ("Whether the file is there.", "bool"),
        "repository_uuid": ("The UUID of the shared repository that it lies in.", "str"),
    },
    "vm": {
        "uuid": ("Its UUID.", "str"),
        "persistent": ("Whether libvirt keeps a definition of it.", "bool"),
        "managed": ("Whether Domus manages it.", "bool"),
        "generation": ("How often its specification was changed.", "int"),
        "site": ("The site that it belongs to.", "str"),
        "addresses": ("Its IP addresses, as far as they are known.", "list"),
        "memory": ("The memory that its guest has now in bytes; null when it does not run.", "int"),
        "vnc_port": ("The port of its graphical console.", "int"),
    },
}

INTRODUCTION = """# The site document

Made from the field tables by `make docs`; do not edit.

A site document says what is to be: it is applied by `domus.virt.apply`, and one object of it is what a module like `domus.virt.vm` takes as options.
YAML or JSON, 64 MiB at most. `site` is the name of the site (`default` when left out); everything else are sections, each a list of objects.

- An object is known by its `name` in its section (a virtual disk by repository and name). The order of sections and objects does not matter.
- **A field that is left out is not managed**; "a new object gets" says what it is when the object is made. Unknown fields are refused.
- An object that is no longer in the document is not deleted: `state: absent` deletes it.
- Disks, drives, NICs and other named parts that are not mentioned stay, unless a VM says `exact: true`.
- Sizes are bytes, or a number with `KiB`, `MiB`, `GiB` or `TiB`. Files are `repository/file`.
- Names have 1 to 63 letters, digits, `.`, `_` or `-`, and start with a letter or digit.
- What takes effect "at the next restart" is in the definition at once, and is reported as `restart_required` until then.
  Domus does not restart anything unasked.
- **Secret** fields are masked in every output, difference and log. A document with secrets can be encrypted by Ansible Vault.
- UUIDs and MAC addresses of new objects are derived from site, kind and names.
"""

EXAMPLES: dict[str, str] = {
    "servers": """
servers:
  - {name: srv1, description: "rack 1, slot 7", virtualization: auto}
""",
    "networks": """
networks:
  - name: lan
    mode: nat
    subnet: 192.0.2.0/24
    dhcp:
      start: 192.0.2.100
      end: 192.0.2.200
      reservations:
        - {name: web1, mac: "52:54:00:00:00:01", address: 192.0.2.10}
    dns: {domain: lan.example.org, forwarders: [192.0.2.53]}
  - {name: office, mode: bridge, bridge: br0, switch: openvswitch, vlan: 100}
""",
    "repositories": """
repositories:
  - {name: main, path: /var/lib/domus/main}
""",
    "server_pools": """
server_pools:
  - name: rack1
    servers: [srv1, srv2, srv3]
    file_system: rack1-pool # a repository on NFS version 4 with lookup_cache: none, best one of its own
    heartbeat:
      - {name: lan, subnet: 192.0.2.0/24}
      - {name: storage, subnet: 198.51.100.0/24}
    fencing:
      - name: bmc-srv1
        agent: fence_ipmilan
        servers: [{name: srv1}]
        options:
          - {name: ip, value: 192.0.2.101}
          - {name: username, value: domus}
          - {name: password, secret: "..."}
""",
    "templates": """
templates:
  - {name: debian12, image: main/debian-12.qcow2}
""",
    "isos": """
isos:
  - {name: debian12-netinst, image: main/debian-12-netinst.iso}
""",
    "virtual_disks": """
virtual_disks:
  - {name: data1, repository: main, size: 100GiB}
  - {name: quorum, repository: main, size: 1GiB, format: raw, shareable: true}
""",
    "vms": """
vms:
  - name: web1
    server: srv1
    cpus: 2
    cpus_max: 4
    memory: 2GiB
    memory_max: 4GiB
    disks:
      - {name: root, template: debian12, clone: thin, size: 20GiB, boot_index: 1}
      - {name: data, virtual_disk: main/data1}
    cdroms:
      - {name: cd, iso: debian12-netinst}
    nics:
      - {name: eth0, network: lan}
    cloud_init:
      user_data: |
        #cloud-config
        hostname: web1
    autostart: true
    state: running
""",
}
