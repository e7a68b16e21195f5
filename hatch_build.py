"""Compiles the native decode step while the package is built; without a compiler it stays pure Python.

BEHOLDER_NATIVE=0 leaves it out, BEHOLDER_NATIVE=1 makes it an error if it cannot be compiled.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("src/beholder/generation/native")


class NativeBuildHook(BuildHookInterface):
    """Called by hatchling before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the source tree, where an editable install finds it too, and add it to the wheel."""
        wanted = os.environ.get("BEHOLDER_NATIVE", "")
        if self.target_name != "wheel" or wanted == "0":
            return
        native = self._build_module()
        try:
            made = native.build()
        except (native.BuildError, OSError) as error:
            if wanted == "1":
                raise
            sys.stderr.write(f"Native decode is left out, so answers come slower on a CPU: {error}\n")
            return
        build_data["artifacts"].append(f"/{made.relative_to(Path(self.root).resolve()).as_posix()}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def _build_module(self) -> Any:
        """build.py by its path: the package cannot be imported before its dependencies are installed."""
        spec = importlib.util.spec_from_file_location("native_build", Path(self.root) / NATIVE / "build.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
