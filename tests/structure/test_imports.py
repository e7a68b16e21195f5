"""The import contract of the house, and which packages may be imported where."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter.cli import lint_imports
from tests.structure.repository import PACKAGE, ROOT, module_name, package_modules, parsed, relative

# Everything that an extra brings. These may be imported at the top of a module only in the rooms that need
# the extra as a whole; elsewhere inside the function that needs it, so that its absence becomes one sentence.
EXTRAS = {
    "accelerate", "bitsandbytes", "fastapi", "gradio", "httpx", "matplotlib", "peft", "prometheus_client",
    "llguidance", "openai", "ray", "starlette", "tensorboard", "torchao", "uvicorn", "vllm",
}  # fmt: skip
ROOMS_OF_EXTRAS = ("serving", "training")

# Nothing may need these: torchvision is not built for every torch we support, and the others were what tied
# the original code to one version of everything.
NEVER = {"torchvision", "timm", "xformers", "flash_attn", "apex", "spacy", "einops"}


def modules_outside(*rooms: str) -> list[Path]:
    """The package's modules but those of some rooms."""
    return [path for path in package_modules() if not any(PACKAGE / room in path.parents for room in rooms)]


def test_imports_point_downwards(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    # It would switch off every logger of this process, and with them the tests that read logs after this one.
    monkeypatch.setattr("importlinter.cli.logging_config.dictConfig", lambda _settings: None)
    outcome = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert outcome == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", modules_outside(*ROOMS_OF_EXTRAS), ids=relative)
def test_no_extra_at_the_top_of_a_module(path):
    found = _imported(parsed(path).body) & EXTRAS
    assert not found, f"{module_name(path)} imports {sorted(found)} at its top; import inside the function"


@pytest.mark.parametrize("path", package_modules(), ids=relative)
def test_nothing_needs_what_we_left_behind(path):
    found = _imported(ast.walk(parsed(path))) & NEVER
    assert not found, f"{module_name(path)} imports {sorted(found)}"


@pytest.mark.parametrize("path", modules_outside("serving/cluster"), ids=relative)
def test_one_importer_of_ray(path):
    assert "ray" not in _imported(ast.walk(parsed(path)))


def _imported(nodes) -> set[str]:
    """Top-level package names in the import statements among `nodes`."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names
