"""The workshop's own promises: skips that CI must not overlook, and suites that must not pass by being absent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
INI = """
[pytest]
markers =
    root: needs root
    envoy: starts Envoy
"""
SKIPPED = """
import pytest

@pytest.mark.{marker}
def test_that_can_not_run_here():
    pytest.skip("no such thing on this machine")

def test_that_may_be_skipped():
    pytest.skip("a matter of taste")
"""


def run_pytest(directory: Path, text: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run pytest with this repository's conftest on one test file."""
    shutil.copy(REPOSITORY / "tests" / "conftest.py", directory)
    (directory / "pytest.ini").write_text(INI)
    (directory / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfEs", str(directory)]
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(directory)}
    return subprocess.run(command, env=plain | environment, cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("marker", ["root", "envoy"])
@pytest.mark.parametrize("variable", [{"CI": "true"}, {"TIDEGATE_CI": "1"}])
def test_skip_of_a_test_that_must_run_is_a_failure_under_ci(tmp_path: Path, marker: str, variable: dict[str, str]) -> None:
    result = run_pytest(tmp_path, SKIPPED.format(marker=marker), variable)
    assert result.returncode == 1
    assert "1 failed, 1 skipped" in result.stdout
    assert "must run under CI" in result.stdout
    assert "no such thing on this machine" in result.stdout


@pytest.mark.parametrize("variable", [{}, {"CI": "false"}, {"CI": ""}])
def test_skip_is_a_skip_elsewhere(tmp_path: Path, variable: dict[str, str]) -> None:
    result = run_pytest(tmp_path, SKIPPED.format(marker="root"), variable)
    assert result.returncode == 0
    assert "2 skipped" in result.stdout


def test_skip_of_a_whole_module_is_an_error_under_ci(tmp_path: Path) -> None:
    text = "import pytest\npytest.importorskip('no_such_module_at_all')\n"
    assert run_pytest(tmp_path, text, {}).returncode == 5
    result = run_pytest(tmp_path, text, {"CI": "1"})
    assert result.returncode not in (0, 5)
    assert "hides tests that must run" in result.stdout


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the setup scripts."""
    command = [str(REPOSITORY / "deploy" / "setup" / name), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_suite_that_is_not_built_says_so_and_fails() -> None:
    result = script("not-built.sh", "tests/of-the-future", "the suite of the future")
    assert result.returncode != 0
    assert "the suite of the future is not in this tree yet" in result.stderr
    assert script("not-built.sh", "tests/unit", "the unit tests").returncode == 0


def test_selection_of_tests_that_do_not_exist_fails() -> None:
    assert script("pytest-some.sh", "tests/of-the-future").returncode == 1
    # pytest's own code for "no test was run".
    assert script("pytest-some.sh", "tests/unit/support/test_workshop.py", "-k", "no_such_name").returncode == 5


def test_lock_files_name_no_index_and_hash_everything() -> None:
    for name in ("runtime.txt", "dev.txt"):
        lines = (REPOSITORY / "requirements" / name).read_text().splitlines()
        assert not [line for line in lines if "://" in line or line.startswith("--")], name
        pins = [index for index, line in enumerate(lines) if "==" in line]
        assert pins
        assert all("--hash=sha256:" in lines[index + 1] for index in pins), name


def test_lock_holds_every_direct_requirement() -> None:
    for name in ("runtime", "dev"):
        locked = {
            line.partition("==")[0]
            for line in (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines()
            if "==" in line
        }
        asked = (REPOSITORY / "requirements" / f"{name}.in").read_text().splitlines()
        wanted = {requirement_name(line) for line in asked if line and not line.startswith(("#", "-r"))}
        assert wanted <= locked, name


def requirement_name(line: str) -> str:
    """The normalised name of a requirement line."""
    text = line.partition("#")[0].strip()
    for separator in ("[", "=", ">", "<", "~"):
        text = text.partition(separator)[0]
    return text.strip().lower().replace("_", "-")
