"""Write the modules' documentation and docs/reference/site-document.md from the field tables; --check only says what has drifted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from reference.document import site_document  # noqa: E402
from reference.modules import apply_doc, info_doc, resource_doc  # noqa: E402
from reference.returns import apply_return, info_return, resource_return  # noqa: E402

from plugins.module_utils.domus_core.model.kinds import KINDS  # noqa: E402

MODULES = ROOT / "plugins" / "modules"
DOCUMENT = ROOT / "docs" / "reference" / "site-document.md"


class Dumper(yaml.SafeDumper):
    """Indents the entries of lists, as people write them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def dump(data: Any) -> str:
    """Data as YAML that reads like hand-written."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)


def generated() -> dict[Path, str]:
    """Every file of the reference with the text that it must have."""
    files = {DOCUMENT: site_document(), MODULES / "apply.py": module_text("apply", apply_doc(), apply_return())}
    for kind in KINDS:
        files[MODULES / f"{kind.name}.py"] = module_text(kind.name, resource_doc(kind), resource_return(kind))
        files[MODULES / f"{kind.name}_info.py"] = module_text(f"{kind.name}_info", info_doc(kind), info_return(kind))
    return files


def module_text(name: str, documentation: dict[str, Any], returned: dict[str, Any]) -> str:
    """The module's file with its two generated constants renewed."""
    text = (MODULES / f"{name}.py").read_text()
    for constant, content in (("DOCUMENTATION", "---\n" + dump(documentation)), ("RETURN", dump(returned))):
        start, end = f'{constant} = r"""\n', '"""\n'
        if text.count(start) != 1:
            raise SystemExit(f"plugins/modules/{name}.py: there must be one {constant}")
        before, rest = text.split(start)
        text = before + start + content + rest[rest.index(end) :]
    return text


def main() -> int:
    """Write what differs, or with --check fail when something does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file has drifted from the tables")
    check = parser.parse_args().check
    drifted = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    for path, text in drifted.items():
        print(f"{path.relative_to(ROOT)} {'has drifted from the tables: run make docs' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 1 if check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
