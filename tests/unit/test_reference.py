"""The reference is what the field tables say, and its examples are valid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from domus_core.model.document import parse_document
from domus_core.model.kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs/reference/site-document.md").read_text()


def test_nothing_has_drifted_from_the_tables() -> None:
    done = subprocess.run([sys.executable, "scripts/generate_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_example_of_every_section_is_valid(kind: object) -> None:
    section = REFERENCE.split(f"\n## {kind.section}\n", 1)[1].split("\n## ", 1)[0]  # type: ignore[attr-defined]
    example = yaml.safe_load(section.split("```yaml\n", 1)[1].split("```", 1)[0])
    assert parse_document(example).wanted(kind.name)  # type: ignore[attr-defined]
