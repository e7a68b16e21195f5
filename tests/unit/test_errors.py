"""The hierarchy of errors: one base to catch, and the built-in kind that a Python user expects."""

from __future__ import annotations

import pytest

from beholder import BeholderError, CapacityError, CheckpointError, ConfigError, InputError, MissingExtraError


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConfigError, ValueError),
        (InputError, ValueError),
        (CheckpointError, OSError),
        (CapacityError, RuntimeError),
        (MissingExtraError, ImportError),
    ],
)
def test_kinds(kind, builtin):
    assert issubclass(kind, BeholderError)
    assert issubclass(kind, builtin)
    assert str(kind("a sentence")) == "a sentence"


def test_too_long_gives_the_counts():
    assert "2100 tokens (1152 of them picture) and the limit is 2048" in str(
        InputError.too_long(2100, 2048, 1152)
    )


def test_a_missing_extra_gives_the_line_to_run():
    assert str(MissingExtraError.of("the web page", "serve")).endswith("pip install 'beholder[serve]'")
