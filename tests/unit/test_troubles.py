"""Errors that people meet lead to the page that tells more, by a code that stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from beholder.cli import main
from beholder.core.device import resolve_device
from beholder.core.errors import BeholderError, InputError, MissingExtraError
from beholder.core.hub import find_checkpoint, without_downloads
from beholder.core.troubles import TROUBLES, trouble_of
from beholder.processing.images import open_picture


def raised(act) -> str:
    with pytest.raises(BeholderError) as caught:
        act()
    return str(caught.value)


def offline(name: str):
    with without_downloads():
        return find_checkpoint(name)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda: open_picture("street.jpg"), "no-such-picture"),
        (lambda: open_picture(b"no picture"), "not-a-picture"),
        (lambda: find_checkpoint("a/b/c"), "no-such-model"),
        (lambda: offline("nobody/nothing-here"), "not-downloaded"),
        (lambda: resolve_device("cuda:99"), "unknown-device"),
    ],
)
def test_a_real_error_has_its_code(act, code):
    trouble = trouble_of(raised(act))
    assert trouble is not None
    assert trouble.code == code


def test_errors_that_are_made_in_one_place():
    long = trouble_of(str(InputError.too_long(3000, 2048, 1152)))
    extra = trouble_of(str(MissingExtraError.of("training", "train")))
    assert long is not None
    assert extra is not None
    assert (long.code, extra.code) == ("prompt-too-long", "missing-extra")
    assert trouble_of("the question is empty") is None


def test_codes_are_names_of_their_own():
    assert len({trouble.code for trouble in TROUBLES}) == len(TROUBLES)
    assert all(trouble.code.replace("-", "").isalpha() for trouble in TROUBLES)
    assert all(trouble.place.endswith(f"#{trouble.code}") for trouble in TROUBLES)


def test_the_command_line_says_where_to_read(tmp_path: Path, capsys):
    assert main(["ask", str(tmp_path / "street.jpg"), "What?"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: no such file: ")
    assert told[1:] == ["help: docs/troubleshooting.md#no-such-picture"]
