"""`import ken` and `ken --help` load nothing heavy: what they cost is held by what they import, not by a clock."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "tantivy", "openai", "httpx", "numpy", "pandas", "fastapi", "sentence_transformers"}

LIST = """
import atexit, sys
atexit.register(lambda: print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr))
"""


def loaded(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after `code`."""
    done = subprocess.run([sys.executable, "-c", LIST + code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


def test_import_ken_loads_no_dependency_at_all():
    assert not loaded("import ken") & (HEAVY | {"pydantic", "rich", "typer", "jinja2"})


def test_the_probe_sees_what_is_loaded():
    assert {"ken", "pydantic"} <= loaded("import ken; ken.Question")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["ask", "--help"],
        ["audit", "--help"],
        ["index", "--help"],
        ["papers", "digest", "--help"],
        ["replay", "--help"],
        ["nonsense"],
    ],
)
def test_the_help_of_a_command_loads_only_typer(arguments):
    code = f"""
sys.argv = ["ken", *{arguments!r}]
from ken.cli import main
try:
    main()
except SystemExit:
    pass
"""
    packages = loaded("import sys" + code)
    assert "typer" in packages
    assert not packages & (HEAVY | {"jinja2"})  # typer itself checks values with pydantic
