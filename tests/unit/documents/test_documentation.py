"""docs/policy.md: its complete examples are good documents."""

from __future__ import annotations

import re
from pathlib import Path

from l7filters.documents import parse_documents
from l7filters.documents.regex import RE2_PROGRAM_SIZE_MAX

PAGE = (Path(__file__).parents[3] / "docs" / "policy.md").read_text()


def test_examples_are_read_without_errors() -> None:
    examples = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "apiVersion" in block]
    parsed = [parse_documents(example, "docs/policy.md") for example in examples]
    assert [str(error) for file in parsed for error in file.errors] == []
    assert sum(len(file.policies) for file in parsed) == len(examples) > 0


def test_limits_are_those_of_the_code() -> None:
    assert f"more than {RE2_PROGRAM_SIZE_MAX:,} RE2 instructions" in PAGE
