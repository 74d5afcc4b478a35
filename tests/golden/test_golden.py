"""Policies and all that follows from them, as files: a change that alters any of it shows in a diff.

``make golden`` (TIDEGATE_GOLDEN_REWRITE=1) writes the files anew and removes those that no case gives any more. Adding a case is
adding a directory with a policy.yaml.
"""

from __future__ import annotations

import os

import pytest

from tests.support.golden import DIRECTORY, INPUTS, cases, outputs

REWRITE = os.environ.get("TIDEGATE_GOLDEN_REWRITE", "") not in ("", "0")
NOT_CASES = frozenset({"__pycache__"})


@pytest.mark.parametrize("case", cases())
def test_golden_files_of_a_case_are_what_its_policy_gives(case: str) -> None:
    wanted = outputs(case)
    directory = DIRECTORY / case
    if REWRITE:
        for orphan in [path for path in directory.iterdir() if path.name not in wanted and path.name not in INPUTS]:
            orphan.unlink()
        for name, text in wanted.items():
            (directory / name).write_text(text)
    found = {path.name: path.read_text() for path in directory.iterdir() if path.name not in INPUTS}
    assert sorted(found) == sorted(wanted), "run `make golden` and review the diff"
    for name, text in wanted.items():
        assert found[name] == text, f"{case}/{name}: run `make golden` and review the diff"


@pytest.mark.parametrize("case", cases())
def test_golden_case_gives_the_same_twice(case: str) -> None:
    assert outputs(case) == outputs(case)


def test_every_golden_directory_is_a_case() -> None:
    assert sorted(path.name for path in DIRECTORY.iterdir() if path.is_dir() and path.name not in NOT_CASES) == cases()
