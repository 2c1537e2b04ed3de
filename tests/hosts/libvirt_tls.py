"""libvirt's and QEMU's TLS on test hosts, with an authority of the tests' own: what a take-over does, without a manager."""

from __future__ import annotations

from tests.hosts.lab.host import Host
from tests.support.small_authority import SmallAuthority

FILES = (("/etc/pki/libvirt", "servercert.pem", "private/serverkey.pem"), ("/etc/pki/libvirt", "clientcert.pem", "private/clientkey.pem"))
QEMU = (("server-cert.pem", "server-key.pem"), ("client-cert.pem", "client-key.pem"))


def enable(*hosts: Host, patience: float = 60.0) -> None:
    """Give each host a certificate, and let libvirtd listen for TLS."""
    authority = SmallAuthority("libvirt")
    for host in hosts:
        certificate, key = authority.issue_host("Domus", host.traits.uuid or host.name, [host.name, host.address])
        host.run("mkdir", "-p", "/etc/pki/CA", "/etc/pki/libvirt/private", "/etc/pki/qemu")
        host.write("/etc/pki/CA/cacert.pem", authority.pem)
        host.write("/etc/pki/qemu/ca-cert.pem", authority.pem)
        for folder, certificate_name, key_name in FILES:
            host.write(f"{folder}/{certificate_name}", certificate)
            host.write(f"{folder}/{key_name}", key, mode="600")
        for certificate_name, key_name in QEMU:
            host.write(f"/etc/pki/qemu/{certificate_name}", certificate)
            host.write(f"/etc/pki/qemu/{key_name}", key, mode="640")
        host.run("chgrp", "-R", "kvm", "/etc/pki/qemu")
        host.shell("grep -q ^default_tls_x509_verify /etc/libvirt/qemu.conf || echo 'default_tls_x509_verify = 1' >>/etc/libvirt/qemu.conf")
        host.run("systemctl", "stop", "libvirtd.service", timeout=patience)
        host.run("systemctl", "start", "libvirtd-tls.socket", timeout=patience)
        host.run("systemctl", "start", "libvirtd.service", timeout=patience)
