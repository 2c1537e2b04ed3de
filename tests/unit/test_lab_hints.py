"""What `make hosts-up` says to type next."""

from __future__ import annotations

import pytest

from tests.hosts.lab.lab import hint, lab_name, own_name


def test_a_lab_that_was_named_is_named_in_what_to_type_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB", "mine")
    assert hint(lab_name(), "h1") == "Log in: make hosts-shell HOST=h1 LAB=mine; end: make hosts-down LAB=mine"


def test_the_lab_of_the_checkout_need_not_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB", raising=False)
    assert hint(lab_name(), "m1") == "Log in: make hosts-shell HOST=m1; end: make hosts-down"
    assert hint(f"{own_name()}-tests", "h1").endswith(f"LAB={own_name()}-tests")
