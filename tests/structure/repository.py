"""Where things are in this repository, for the tests that read it as text."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "beholder"
FOLDERS = ("src", "tests", "benchmarks", "examples", "docs", ".ci")


def repository_files() -> list[Path]:
    """Every file that is, or would be, committed; from an unpacked sdist, every file of the known folders."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0:
        found = [ROOT / line for line in listing.stdout.splitlines()]
    else:
        found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
        found += list(ROOT.glob("*"))
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def package_modules() -> list[Path]:
    """The package's Python files."""
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    """The path as a reader of the repository writes it; used as a test's name."""
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """`src/beholder/core/types.py` -> `beholder.core.types`."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of its public classes.

    The members of a Protocol repeat what is documented where it is implemented.
    """
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            yield node
            if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
                yield from public_definitions(ast.Module(body=node.body, type_ignores=[]))
