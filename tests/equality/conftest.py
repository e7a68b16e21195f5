"""What all tests of equality share."""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.fixture(scope="module", autouse=True)
def as_if_large() -> Generator[None]:
    """Short ends of prompts are read natively of large models only; here tiny ones stand for those."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beholder.generation.native.decode.SMALL_TRUNK", 0)
        yield
