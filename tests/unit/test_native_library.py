"""Whether the native step is there is always said, and never guessed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.equality.native_cases import ensure_built, tiny_llama

from beholder.core.errors import ConfigError
from beholder.generation.native import build as building
from beholder.generation.native import library as native
from beholder.generation.native.trunk import PackedTrunk

ensure_built()


def test_status_names_the_best_level_first():
    status = native.status()
    assert status.is_built
    assert status.reason == ""
    assert status.levels[-1] == "portable"
    assert str(status) == status.levels[0]
    order = [name for name in building.LEVELS if name in status.levels]
    assert list(status.levels) == order


def test_a_missing_library_is_said(tmp_path):
    assert native.find_library(tmp_path / "none.so") == "it was not compiled when the package was installed"


def test_a_damaged_library_is_said(tmp_path):
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"not a library")
    told = native.find_library(damaged)
    assert isinstance(told, str)
    assert told.startswith(f"{damaged} cannot be loaded")


def test_a_library_of_other_sources_is_not_used(tmp_path, monkeypatch):
    stale = tmp_path / "stale.so"
    shutil.copy(building.LIBRARY, stale)
    monkeypatch.setattr(native, "digest", lambda: "another")
    assert native.find_library(stale) == f"{stale} was compiled from other sources than these"


def test_what_a_user_reads_without_it(monkeypatch):
    monkeypatch.setattr(native, "_found", lambda: "nobody compiled it")
    wanted = (
        "native decode is not built: nobody compiled it; build it with: "
        "python -m beholder.generation.native.build, or decode with PyTorch"
    )
    with pytest.raises(ConfigError) as caught:
        PackedTrunk.of(tiny_llama(), "float32")
    assert str(caught.value) == wanted
    assert str(native.status()).startswith("not built: nobody compiled it; build it with:")
    assert native.status().levels == ()


def test_without_a_compiler_the_build_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert building.main() == 1
    told = capsys.readouterr().err
    assert told.startswith("Native decode was not built: there is no C++ compiler here")
    assert "apt-get install g++" in told


def test_a_failing_compiler_is_quoted(monkeypatch, tmp_path):
    """And what was built before stays."""
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'cannot do this' >&2\nexit 1\n")
    compiler.chmod(0o755)
    target = tmp_path / "kept.so"
    target.write_text("before")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(building.BuildError, match="cannot do this"):
        building.build(target)
    assert target.read_text() == "before"


def test_flags_and_sources_change_the_digest(monkeypatch, tmp_path):
    before = building.digest()
    assert building.digest(["-O1"]) != before
    copied = tmp_path / "source"
    shutil.copytree(building.SOURCES, copied)
    monkeypatch.setattr(building, "SOURCES", copied)
    assert building.digest() == before
    path = copied / "trunk.cpp"
    path.write_text(path.read_text() + "\n")
    assert building.digest() != before


def compiler(folder: Path, machine: str, *refused: str) -> list[str]:
    """A compiler for that kind of machine, which knows all flags but these."""
    path = folder / "compiler"
    knows = "".join(f'case "$*" in *{flag}*) exit 1;; esac\n' for flag in refused)
    path.write_text(f'#!/bin/sh\n{knows}[ "$1" = -dumpmachine ] && echo {machine}\nexit 0\n')
    path.chmod(0o755)
    return [str(path)]


@pytest.mark.parametrize(
    ("machine", "levels"),
    [
        ("x86_64-linux-gnu", ["avx512", "avx2", "portable"]),
        ("aarch64-unknown-linux-gnu", ["neon", "neon_plain", "portable"]),
        ("arm64-apple-darwin23.6.0", ["neon", "neon_plain", "portable"]),
        ("riscv64-linux-gnu", ["portable"]),
    ],
)
def test_levels_are_those_of_the_machine_that_is_compiled_for(tmp_path, machine, levels):
    """Which a cross compiler tells: it is not this one."""
    assert list(building.levels_for(compiler(tmp_path, machine))) == levels


def test_a_level_that_the_compiler_does_not_know_is_left_out(tmp_path):
    old = compiler(tmp_path, "aarch64-linux-gnu", "dotprod")
    assert list(building.levels_for(old)) == ["neon_plain", "portable"]


def test_a_compiler_that_tells_no_machine_compiles_for_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(building.platform, "machine", lambda: "arm64")
    assert list(building.levels_for(compiler(tmp_path, ""))) == ["neon", "neon_plain", "portable"]


def test_the_compiler_may_be_told_with_arguments(tmp_path, monkeypatch):
    [path] = compiler(tmp_path, "aarch64-linux-gnu")
    monkeypatch.setenv("CXX", f"{path} --target=aarch64-linux-gnu")
    assert building.find_compiler() == [path, "--target=aarch64-linux-gnu"]


def test_a_compiler_that_is_told_and_not_there_is_no_other(monkeypatch):
    """Somebody who compiles for another machine would get a library for this one."""
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    with pytest.raises(building.BuildError) as caught:
        building.find_compiler()
    assert str(caught.value) == (
        "there is no compiler 'no-such-compiler', which $CXX names; install it, or unset CXX"
    )


def test_every_source_is_compiled():
    compiled = {f"{name}.cpp" for name in building.COMMON}
    compiled |= {f"kernels_{level}.cpp" for level in building.LEVELS}
    assert {path.name for path in Path(building.SOURCES).glob("*.cpp")} == compiled
