"""pyproject.toml and constraints.txt tell the same story as the code."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tests.structure.repository import PACKAGE, ROOT

import beholder

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The extras that the tested set holds; the others are installed where they are used.
TESTED = ("serve", "cluster", "train", "eval", "dev")


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    told = PROJECT["dependencies"] + [line for extra in TESTED for line in extras[extra]]
    return [requirement for requirement in map(Requirement, told) if requirement.name != "beholder"]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_is_pinned_within_its_bounds(requirement):
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_no_requirement_is_exact():
    every = PROJECT["dependencies"] + [
        line for extra in PROJECT["optional-dependencies"].values() for line in extra
    ]
    assert not [line for line in every if "==" in line or "<" in line]


def test_pins_fit_every_build_of_torch():
    """With a local part such as +cpu the pin would exclude the GPU builds, without it it admits them all."""
    assert pins()["torch"].local is None
    assert not [name for name in pins() if name.startswith(("nvidia", "torchvision", "torchaudio", "triton"))]


def test_version_is_told_once():
    assert beholder.__version__ == PROJECT["version"] == importlib.metadata.version("beholder")
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[?{re.escape(PROJECT['version'])}", changes, re.MULTILINE)


def test_the_command_leads_to_the_program():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="beholder")
    assert callable(command.load())


@pytest.mark.parametrize(
    "pattern",
    ["py.typed", "mini/**/*.safetensors", "mini/**/config.json", "training/recipes/**/*.yaml"],
)
def test_package_data_is_there(pattern):
    assert list(PACKAGE.glob(pattern))
