"""Whatever text a document holds comes back from libvirt as it was, and stays text: it becomes no element and no attribute."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from domus_core.errors import DomusError
from domus_core.libvirt_driver.xml_fields import etree
from domus_core.model.field_types import AbsolutePath, Text
from domus_core.model.fields import Object, Objects, field_named, fields_of
from domus_core.model.kinds import KINDS
from domus_core.model.secrets import Secret
from domus_core.model.vm import VmSpec
from domus_core.model.vm_devices import VncSpec

from tests.integration.server_under_test import PREFIX, SMALL, ServerUnderTest

pytestmark = pytest.mark.libvirt

MARKUP = [
    "<",
    ">",
    "&",
    "'",
    '"',
    "<&>",
    "&lt;",
    "&amp;amp;",
    "&#10;",
    "&#x3c;",
    "&nbsp;",
    "&unknown;",
    "]]>",
    "<![CDATA[x]]>",
    "<!-- x -->",
    "<?xml version='1.0'?>",
]
MARKUP += [
    "</description>",
    "</description><devices/>",
    "<script>alert(1)</script>",
    "'/><disk file='/etc/shadow",
    '" passwd="x',
    "--><x",
    "<!DOCTYPE x [<!ENTITY y 'z'>]>",
]
OTHER = [
    "{{ x }}",
    "{% raw %}",
    "${x}",
    "$(id)",
    "`id`",
    "%s%n",
    "\\",
    "\\n",
    "\\u003c",
    "'; --",
    "|",
    "*",
    "?",
    "~",
    "#",
    "=",
    ",",
    "a,,b",
    "file=/x,format=raw",
    ":",
    "a:b",
    "@",
    "!",
    "^",
]
SPACE = [" ", "  a  b  ", " a", "a ", "a\tb", "a\nb", "\na\n", "a\r\nb", "a\rb", "\t", "\n", "a\n\n\nb", " \n ", "\r", "\r\n\r\n"]
LETTERS = [
    "é",
    "e\u0301",
    "ß",
    "ÅÄÖ",
    "日本語",
    "한국어",
    "עברית",
    "العربية",
    "ไทย",
    "🙂",
    "👩‍👩‍👧",
    "𝒳",
    "\U0010fffd",
    "\ufdd0",
    "\u200b",
    "\u202e",
    "\u2028",
    "\x85",
    "\xa0",
    "\xad",
    "\ufeff",
    "\ufffd",
    "İı",
    "ﬁ",
]
LONG = ["x" * 200, "<" * 200, "&amp;" * 40, "é" * 200, "🙂" * 200]
REFUSED = ["\0", "a\0b", "\x01", "\x1b[31m", "\x7f", "\ud800", "\ufffe", "\uffff", "\x0b", "\x0c"]
CORPUS = [*MARKUP, *OTHER, *SPACE, *LETTERS, *LONG, *REFUSED]
PLAIN = "plain"
PASSWORD = field_named(VncSpec, "password").type
# The texts of the table that reach libvirt and whose characters are not limited to what a name may have.
FREE = {("VmSpec", "description"), ("KernelSpec", "arguments"), ("VncSpec", "password"), ("RepositorySpec", "path")}
# These never reach it as they are: the registry and the notes are JSON, the seed is an image; the record in the definition is JSON, too.
JSON = {(f"{kind}Spec", "description") for kind in ("Server", "Repository", "Template", "Iso", "VirtualDisk")}
JSON |= {("CloudInitSpec", name) for name in ("user_data", "meta_data", "network_config")}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerUnderTest]:
    made = ServerUnderTest()
    (made.main / "Templates/vmlinuz").write_bytes(bytes(1024))
    yield made
    made.close()


def free_texts(spec: Any) -> Iterator[tuple[str, str]]:
    for field in fields_of(spec):
        if isinstance(field.type, (Object, Objects)):
            yield from free_texts(field.type.spec)
        elif isinstance(field.type, AbsolutePath):
            if not field.type.mountable:  # such a path has no free text
                yield spec.__name__, field.name
        elif isinstance(field.type, Text) and (field.type.pattern is None or field.type.pattern.fullmatch("<")):
            yield spec.__name__, field.name


def test_every_free_text_is_here() -> None:
    assert len(CORPUS) == len(set(CORPUS)) >= 100
    # What is said of a pool goes to Corosync and Pacemaker, not to libvirt.
    assert {text for kind in KINDS if kind.name != "server_pool" for text in free_texts(kind.spec)} == FREE | JSON


def shape(root: Any) -> list[Any]:
    """The elements with their attributes, without the texts that are tried."""
    tried = ("description", "cmdline", "{urn:domus:vm:1}vm")
    return [
        (one.tag, sorted((name, value) for name, value in one.attrib.items() if name != "passwd"), one.text if one.tag not in tried else None)
        for one in root.iter()
    ]


def accepted(type: Any, text: str) -> bool:
    try:
        type.parse(text)
    except DomusError:
        return False
    return True


def test_texts_of_a_vm_stay_texts(server: ServerUnderTest) -> None:
    def values(text: str) -> dict[str, Any]:
        found: dict[str, Any] = {"description": text} if accepted(field_named(VmSpec, "description").type, text) else {}
        found["kernel"] = {"kernel": "main/vmlinuz", "arguments": text if accepted(Text(2000), text) else PLAIN}
        found["vnc"] = {"password": text[:8] if accepted(PASSWORD, text[:8]) else PLAIN}
        found["cloud_init"] = {"meta_data": text} if accepted(Text(1 << 16, multiline=True), text) else {"meta_data": PLAIN}
        return found

    server.vm(**SMALL, **values(PLAIN), video="vga", state="stopped")
    wanted = shape(server.xml())
    for text in CORPUS:
        asked = values(text)
        if text in REFUSED:
            assert "description" not in asked and asked["kernel"]["arguments"] == asked["vnc"]["password"] == asked["cloud_init"]["meta_data"] == PLAIN
            continue
        asked.pop("cloud_init") if len(text) > 8 else None  # an image for each takes its time
        report = server.try_apply(vms=[{"name": server.name("vm"), **asked}])
        assert report.errors == [], repr(text)
        found = server.found()
        assert found.spec.description == text and found.spec.kernel.arguments == asked["kernel"]["arguments"], repr(text)
        assert Secret(asked["vnc"]["password"]).matches(found.spec.vnc.password)
        assert server.xml().find("devices/graphics").get("passwd") == asked["vnc"]["password"], repr(text)
        assert "cloud_init" not in asked or found.spec.cloud_init.meta_data == asked["cloud_init"]["meta_data"]
        now = server.xml()
        for seed in now.xpath("devices/disk[target/@dev='vdz']/source"):
            seed.set("file", wanted_seed(wanted))
        assert shape(now) == wanted, repr(text)
        assert server.steps(vms=[{"name": server.name("vm"), **asked}]) == (), repr(text)


def wanted_seed(wanted: list[Any]) -> str:
    """The seed image of the plain variant: its name holds a hash of its content."""
    return next(str(value) for _, attributes, _ in wanted for name, value in attributes if name == "file" and "-cloud-init-" in value)


def test_paths_of_repositories_stay_paths(server: ServerUnderTest) -> None:
    names = [text for text in CORPUS if text not in REFUSED and accepted(AbsolutePath(), f"/x/{text}") and len(text.encode()) < 200]
    assert len(names) > 60
    vms, repositories = [], []
    for position, text in enumerate(names):
        repositories.append({"name": f"r{position}", "path": str(server.directory / f"{text}{position}")})
        vms.append(
            {
                "name": server.name(f"p{position}"),
                **SMALL,
                "disks": [{"name": "root", "repository": f"r{position}", "size": "1MiB", "format": "raw"}],
                "state": "stopped",
            }
        )
    report = server.try_apply(repositories=repositories, vms=vms)
    assert [str(error) for error in report.errors] == []
    assert server.steps(repositories=repositories, vms=vms) == ()
    plain = shape(server.xml(f"p{names.index('a:b')}"))
    for position, text in enumerate(names):
        root = server.xml(f"p{position}")
        assert root.find("devices/disk/source").get("file") == f"{server.directory}/{text}{position}/VirtualDisks/{PREFIX}-p{position}-root.img"
        assert [one[0] for one in shape(root)] == [one[0] for one in plain], repr(text)
        assert [[name for name, _ in one[1]] for one in shape(root)] == [[name for name, _ in one[1]] for one in plain], repr(text)


def test_a_hostile_path_is_opened_by_qemu_as_it_is(server: ServerUnderTest) -> None:
    path = str(server.directory / "a,b=<&>'\" é🙂 $(id)")
    server.apply(repositories=[{"name": "hostile", "path": path}])
    server.vm("hostile", **SMALL, disks=[{"name": "root", "repository": "hostile", "size": "1MiB"}], cloud_init={"user_data": "x"}, state="running")
    server.vm("hostile", disks=[{"name": "root", "size": "2MiB"}, {"name": "more", "repository": "hostile", "size": "1MiB"}])
    assert server.waiting("hostile") == set()
    image = f"{path}/VirtualDisks/{server.name('hostile')}-root.qcow2"
    assert "virtual size: 2 MiB" in subprocess.run(["qemu-img", "info", "-U", "-f", "qcow2", image], check=True, capture_output=True, text=True).stdout


def test_malformed_and_reaching_xml_is_refused() -> None:
    from domus_core.libvirt_driver.xml_fields import parse

    with pytest.raises(DomusError, match="malformed"):
        parse("<domain><x></domain>")
    text = "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><domain><name>&x;</name></domain>"
    assert (parse(text).findtext("name") or "").strip() == "" and etree is not None
