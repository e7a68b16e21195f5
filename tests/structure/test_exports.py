"""What a package says it exports is what can be imported from it."""

from __future__ import annotations

import ast
import importlib

import pytest
from tests.structure.repository import module_name, package_modules, parsed, relative

import beholder


def _declares_exports(path) -> bool:
    targets = [node.targets for node in parsed(path).body if isinstance(node, ast.Assign)]
    return any(isinstance(name, ast.Name) and name.id == "__all__" for names in targets for name in names)


@pytest.mark.parametrize("path", [p for p in package_modules() if _declares_exports(p)], ids=relative)
def test_exports_exist(path):
    module = importlib.import_module(module_name(path))
    assert len(module.__all__) == len(set(module.__all__))
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


def test_the_front_door_is_complete():
    """`from beholder import ...` offers exactly what `__all__` lists: nothing forgotten or by chance."""
    assert {"load", "VLM", "Message", "Sampling", "Answer", "BeholderError"} <= set(beholder.__all__)
    values = {name: getattr(beholder, name) for name in dir(beholder) if not name.startswith("_")}
    ours = {
        name for name, value in values.items() if getattr(value, "__module__", "").startswith("beholder.")
    }
    assert ours == set(beholder.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="lode"):
        beholder.lode  # noqa: B018
