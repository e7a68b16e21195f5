"""Captchas: drawn from a seed, letters in their boxes, folders split as the document does, answers scored."""

from __future__ import annotations

import json
import random
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beholder.core.errors import ConfigError, InputError
from beholder.evaluation.task import Reply
from beholder.evaluation.tasks import find_task
from beholder.training.captcha import dataset
from beholder.training.captcha.drawing import CAPTCHA, HANDS, HEAVY, HEIGHT, LETTERS, PLAIN, WIDTH, Hand, draw


@pytest.mark.parametrize("hand", HANDS)
def test_the_same_seed_draws_the_same_picture(hand: str) -> None:
    one, again, other = (dataset.picture_at(index, hand, 3, (None,)) for index in (5, 5, 6))
    assert one.text == again.text
    assert np.array_equal(np.asarray(one.picture), np.asarray(again.picture))
    assert not np.array_equal(np.asarray(one.picture), np.asarray(other.picture))


def test_texts_have_the_letters_and_lengths_of_the_hand() -> None:
    texts = [dataset.picture_at(index, "captcha", 0, (None,)).text for index in range(60)]
    assert {len(text) for text in texts} == {4, 5, 6}
    assert set("".join(texts)) <= set(LETTERS)
    assert len(set("".join(texts))) > 20
    assert not set("0O1I2Z5S") & set(LETTERS)


def test_boxes_are_where_the_ink_is() -> None:
    still = Hand(
        lengths=(3,), turn=0.0, shear=0.0, perspective=0.0, closeness=(0.3, 0.4), wave=0.0, lines=(0, 0),
        dots=(0, 0), grain=0.0, blur=0.0, own_colours=0.0, contrast=100,
    )  # fmt: skip
    for seed in range(12):
        drawn = draw(random.Random(seed), still)
        pixels = np.asarray(drawn.picture.convert("L"), dtype=float)
        ground = np.median(pixels)
        for x1, y1, x2, y2 in drawn.boxes:
            assert 0 <= x1 < x2 <= 1
            assert 0 <= y1 < y2 <= 1
            inside = pixels[round(y1 * HEIGHT) : round(y2 * HEIGHT), round(x1 * WIDTH) : round(x2 * WIDTH)]
            assert np.abs(inside - ground).max() > 60
        assert [box[0] for box in drawn.boxes] == sorted(box[0] for box in drawn.boxes)


def overlaps(hand: str) -> float:
    """How much of a letter's box lies in the next one's, in the mean over a hand's pictures."""
    shares: list[float] = []
    for index in range(60):
        boxes = dataset.picture_at(index, hand, 5, (None,)).boxes
        shares += [max(0.0, one[2] - two[0]) / (one[2] - one[0]) for one, two in pairwise(boxes)]
    return float(np.mean(shares))


def test_each_hand_disturbs_as_its_name_says() -> None:
    assert CAPTCHA.wave > PLAIN.wave
    assert min(CAPTCHA.lengths) == min(HEAVY.lengths) == 4
    assert min(PLAIN.lengths) == 1
    assert overlaps("captcha") < 0.01
    assert overlaps("captcha") < overlaps("plain") < overlaps("heavy")


def archive(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (4, 4)).save(folder / f"{number:05}.jpg")
    return folder


def test_the_split_is_the_documents(tmp_path: Path) -> None:
    counts = dataset.split(archive(tmp_path / "archive", 100), tmp_path / "split")
    assert counts == {"train": 80, "valid": 5, "test": 15}
    names = [f"{number:05}.jpg" for number in range(100)]
    random.Random(2023).shuffle(names)
    for part, expected in (("train", names[:80]), ("valid", names[80:85]), ("test", names[85:])):
        found = {path.name for path in (tmp_path / "split" / part).glob("*.jpg")}
        assert found == set(expected)
    assert not list((tmp_path / "archive").glob("*.jpg"))


def test_the_split_of_ten_thousand_begins_as_the_original(tmp_path: Path) -> None:
    # utils/split_dataset.py of THUDM/CogVLM (8bd8be9) on archive/00000.jpg ... in ascending order.
    names = [f"{number:05}.jpg" for number in range(10_000)]
    random.Random(dataset.SEED_OF_SPLIT).shuffle(names)
    assert names[:4] == ["07378.jpg", "04714.jpg", "08149.jpg", "04799.jpg"]
    assert names[8000:8003] == ["02298.jpg", "05349.jpg", "02923.jpg"]
    assert dataset.sizes(10_000) == {"train": 8000, "valid": 500, "test": 1500}


def test_a_split_needs_a_new_folder_and_enough_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 3 pictures"):
        dataset.split(archive(tmp_path / "few", 3), tmp_path / "split")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="is not empty"):
        dataset.split(archive(tmp_path / "archive", 20), tmp_path / "full")


def test_a_stopped_drawing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beholder.mini.shards.SHARD", 4)
    first = dataset.write(tmp_path / "stopped", 10, seed=2)
    assert next(first) == 4
    first.close()
    with pytest.raises(ConfigError, match=r"drawn with other settings \(seed\)"):
        list(dataset.write(tmp_path / "stopped", 10, seed=3))
    assert list(dataset.write(tmp_path / "stopped", 10, seed=2)) == [8, 10]
    assert list(dataset.write(tmp_path / "stopped", 10, seed=2)) == [10]
    assert list(dataset.write(tmp_path / "whole", 10, seed=2, workers=2)) == [4, 8, 10]
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("stopped", "whole")
    )
    assert one == other
    assert len(one) == 12  # with rows and manifest


def test_other_software_draws_the_same_texts_each_time(tmp_path: Path) -> None:
    assert list(dataset.write_other(tmp_path / "one", 6, seed=4)) == [6]
    list(dataset.write_other(tmp_path / "two", 6, seed=4))
    one, two = (find_task("captcha").load(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert {len(row["answer"]) for row in one} <= {4, 5, 6}
    for row in one:
        with Image.open(tmp_path / "one" / row["image"]) as picture:
            assert picture.size == (160, 60)


def test_a_folder_with_anything_else_is_not_drawn_into(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(InputError, match="is not empty"):
        list(dataset.write(tmp_path, 1))


def test_a_stopped_split_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = archive(tmp_path / "whole", 40)
    dataset.split(whole, tmp_path / "at once")
    stopped, moves = archive(tmp_path / "stopped", 40), iter([True] * 7 + [False])
    move = shutil.move

    def moved(source: Path, target: Path) -> None:
        if not next(moves):
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("beholder.training.captcha.dataset.shutil.move", moved)
        with pytest.raises(KeyboardInterrupt):
            dataset.split(stopped, tmp_path / "in two")
    for _ in range(2):  # to its end, and again with nothing left to do
        assert dataset.split(stopped, tmp_path / "in two") == {"train": 32, "valid": 2, "test": 6}
    one, other = (
        sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))
        for out in (tmp_path / "at once", tmp_path / "in two")
    )
    assert one == other
    Image.new("RGB", (4, 4)).save(stopped / "later.jpg")
    with pytest.raises(InputError, match="a split of other pictures"):
        dataset.split(stopped, tmp_path / "in two")


def test_questions_have_the_answers_of_the_names(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "AB3K.000001.jpg")
    (tmp_path / "below").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "below" / "CD4L.000002.jpg")  # none of this folder's
    dataset.write_questions(tmp_path)
    task = find_task("captcha")
    (row,) = task.load(tmp_path)
    assert (row["question"], row["answer"]) == ("CAPTCHA:", "AB3K")
    scores = [task.score(Reply(text), row) for text in (" AB3K", "ab3k", "AB3")]
    assert [one["right"] for one in scores] == [True, False, False]
    figures = task.summary(scores)
    assert figures["accuracy"].value == pytest.approx(1 / 3)
    assert figures["accuracy_any_case"].value == pytest.approx(2 / 3)
    assert figures["letters.4"].samples == 3


def test_unknown_hands_and_missing_fonts_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no hand 'left'; known: captcha, plain"):
        list(dataset.write(tmp_path / "a", 1, hand="left"))
    with pytest.raises(ConfigError, match="no such folder of fonts"):
        list(dataset.write(tmp_path / "a", 1, fonts=tmp_path / "none"))
    assert not (tmp_path / "a").exists()


def test_rows_name_each_letter_for_the_tower(tmp_path: Path) -> None:
    drawn = dataset.picture_at(0, "plain", 0, (None,))
    row = dataset.row_of(drawn, "x.jpg")
    assert [thing["what"] for thing in row["objects"]] == list(drawn.text)
    assert row["conversations"][1]["value"] == drawn.text
    json.dumps(row)
