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
    assert told[1:] == ["help: docs/troubleshooting.md#no-such-picture (beholder help no-such-picture)"]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.code)
def test_help_prints_the_section(trouble, capsys):
    assert main(["help", trouble.code]) == 0
    told = capsys.readouterr().out
    assert len(told.splitlines()) >= 3
    assert not [mark for mark in ("{#", "```", "<!--", "](", "###") if mark in told]


def test_help_of_a_verb_and_of_nothing(capsys):
    assert main(["help", "data", "draw"]) == 0
    assert "beholder data draw" in capsys.readouterr().out
    assert main(["help", "not-a-pictur"]) == 2
    assert "did you mean 'not-a-picture'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        ("3 tensors missing: a; b; c", "does-not-fit"),
        ("2 tensors unknown to LLaVA-1.5: a; b", "does-not-fit"),
        ("model.bin is a Git LFS pointer and not the file itself", "lfs-pointer"),
        ("1 of 2 numbered files are missing: model-00002-of-00002.safetensors", "half-a-download"),
        ("/x/config.json is not valid JSON (line 1)", "damaged-file"),
        ("model.safetensors is empty", "damaged-file"),
        (
            "the folder holds weights twice, as safetensors and as .bin, and 1 tensors differ: a",
            "weights-twice",
        ),
        (
            "the vocabulary is wrong: the tokenizer has only 5 words and the model has 32000 rows",
            "wrong-vocabulary",
        ),
        ("1 tensors hold NaN or infinity: a", "broken-numbers"),
        ("/x is a SAT checkpoint, which is not opened as it is", "sat-folder"),
        ("adapter_model.bin of the adapter are missing", "adapter"),
    ],
)
def test_what_doctor_says_has_its_code(problem, code):
    trouble = trouble_of(problem)
    assert trouble is not None
    assert trouble.code == code


def test_doctor_says_where_to_read(tmp_path: Path, capsys):
    import json

    (tmp_path / "config.json").write_text("{")
    assert main(["doctor", str(tmp_path)]) == 3
    assert (
        "    see: docs/troubleshooting.md#damaged-file (beholder help damaged-file)"
        in capsys.readouterr().out
    )
    assert main(["doctor", str(tmp_path), "--json"]) == 3
    assert "damaged-file" in [one["code"] for one in json.loads(capsys.readouterr().out)["findings"]]
