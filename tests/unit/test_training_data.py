"""Rows of every form, their mixture, what is found wrong with them, and how a row is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.training.checking import check, confirm_manifest, show, write_manifest
from beholder.training.collate import Collator
from beholder.training.data import Conversations, mask_of, row_messages, row_pictures, row_texts
from beholder.training.rows import read_rows
from beholder.training.sources import folder_rows, weighted
from beholder.training.stages import Source


class Words:
    """A processor whose tokens are words: the assistant's are trained, a picture is four times 9."""

    def encode_training(self, messages: list[Message]) -> dict[str, Any]:
        ids: list[int] = []
        labels: list[int] = []
        for message in messages:
            own = [9] * 4 * len(message.pictures) + [len(word) for word in message.text.split()]
            ids += own
            labels += own if message.role == "assistant" else [-100] * len(own)
        return {"input_ids": ids, "labels": labels, "pixel_values": None}


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": more.pop("id", "r"), "conversations": turns, **more}


def test_openai_messages_are_rows(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    parts = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "What?"}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Red."}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (read,) = read_rows(tmp_path / "rows.jsonl")
    user, assistant = row_messages(read, tmp_path)
    assert (user.text, len(user.pictures), assistant.text) == ("What?", 1, "Red.")
    assert row_pictures(read) == ["a.png"]
    assert row_texts(read) == ["<image> What?", "Red."]


def test_a_folder_is_rows(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "xY7.old.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg")
    (tmp_path / "b.txt").write_text("two words\n")
    rows = list(folder_rows(Source(rows=tmp_path, pictures=tmp_path, form="folder", prompt="CAPTCHA:")))
    assert [row["conversations"][1]["value"] for row in rows] == ["two words", "xY7"]
    question, _ = row_messages(rows[1], tmp_path)
    assert (question.text, len(question.pictures)) == ("CAPTCHA:", 1)
    with pytest.raises(InputError, match="no folder"):
        list(folder_rows(Source(rows=tmp_path / "no", pictures=tmp_path, form="folder", prompt="x")))
    with pytest.raises(InputError, match="give the same folder"):
        list(folder_rows(Source(rows=tmp_path, pictures=tmp_path / "in", form="folder", prompt="x")))


def test_weights_repeat_rows_and_choose_the_rest_alike_each_time() -> None:
    rows = [{"id": number} for number in range(10)]
    mixed = weighted(rows, 2.3, seed=4)
    assert len(mixed) == 23
    assert mixed[:20] == rows * 2
    assert mixed[21] == [*mixed][21]
    assert [*weighted(rows, 2.3, seed=4)] == [*mixed]
    assert [*weighted(rows, 2.3, seed=5)] != [*mixed]
    assert weighted(rows, 1.0, seed=0) is rows
    with pytest.raises(InputError, match="leaves none"):
        weighted(rows, 0.01, seed=0)


def test_words_are_counted_as_llava_counts_them() -> None:
    rows = [talk("<image>\nWhat is it?", "A dog.", image="a.png"), talk("Why not?", "So.")]
    assert Conversations([(rows, Path())], Words()).words() == [6, -3]


def test_a_row_without_a_trained_token_is_shown() -> None:
    data = Conversations([([talk("one two three", "", id="bad")], Path())], Words())
    with pytest.raises(InputError, match=r"row bad has no trained token.*its tokens are: 3 3 5"):
        data[0]


def test_the_strip_marks_trained_tokens_and_counts_slots() -> None:
    assert mask_of([1, 9, 9, 9, 9, 5, 6], [-100] * 5 + [5, 6], None) == "1 (4 x 9) [5] [6]"
    assert mask_of([1, 2, 3], [1, 2, 3], None, longest=2) == "[1] [2] ... 1 more"


def test_what_is_wrong_with_rows_is_found(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "same.png")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "b.jpg", format="PNG")
    (tmp_path / "dead.png").write_bytes(b"no picture")
    good = talk("<image>\nWhat?", "Red.", image="a.png", id="good")
    rows = [
        good,
        good | {"id": "again"},
        talk("<image>\nWhat?", "Red.", image="same.png", id="same"),
        talk("<image>\nWhat?", "Red.", image="b.jpg", id="wrong name"),
        talk("<image>\nWhat?", "Red.", image="dead.png", id="dead"),
        talk("<image>\nWhat?", "Red.", image="gone.png", id="gone"),
        talk("What?", "Red.", image="a.png", id="no mark"),
        talk("What?", "", id="silent"),
        talk("What?", "word " * 50, id="long"),
        talk("<image>\nWhat?", "<image> Red.", image=["a.png", "a.png"], id="answered"),
        {
            "id": "begins",
            "conversations": [{"from": "gpt", "value": "Hi."}, *good["conversations"]],
            "image": "a.png",
        },
    ]
    report = check([(rows, tmp_path)], Words(), Collator(0, max_length=40))
    assert {kind: len(places) for kind, places in report.problems.items()} == {
        "repeated row": 1, "repeated picture": 2, "wrong extension": 1, "dead file": 1, "missing file": 1,
        "wrong row": 1, "nothing trained": 1, "too long": 1, "picture in an answer": 1,
        "begins with an answer, which is left out": 1,
    }  # fmt: skip
    assert (report.rows, report.pictures) == (11, 3)
    assert "no mark" in report.problems["wrong row"][0]
    assert not report.holds
    assert check([([good], tmp_path)], Words()).holds
    assert "11 rows, 3 pictures" in report.told()


def test_a_picture_in_an_answer_is_looked_for_behind_a_system_message(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    row = talk("<image>\nWhat?", "Red.", image="a.png")
    row["conversations"] = [{"from": "system", "value": "Be short."}, *row["conversations"]]
    assert not check([([row], tmp_path)], Words()).problems


def test_what_a_run_cuts_or_leaves_out_is_no_fault() -> None:
    rows = [talk("What?", "word " * 50, id="long")]
    for rule, told in (("cut", "longer, and cut"), ("drop", "longer, and left out")):
        report = check([(rows, Path())], Words(), Collator(0, max_length=40, too_long=rule))  # type: ignore[arg-type]
        assert (dict(report.problems), report.holds) == ({told: ["long has 51 tokens"]}, True)
    report = check([(rows, Path())], Words(), Collator(0, max_length=1, too_long="cut"))
    assert not report.holds
    assert "no trained token" in report.problems["too long"][0]


def test_a_run_reads_the_manifest(tmp_path: Path) -> None:
    rows = [talk("What?", "Red.")]
    place = tmp_path / "manifest.json"
    confirm_manifest([(rows, tmp_path)], place)  # there is none
    write_manifest([(rows, tmp_path)], check([(rows, tmp_path)]), place)
    confirm_manifest([(rows, tmp_path)], place)
    with pytest.raises(InputError, match="source 1 has 2 rows which are not the 1"):
        confirm_manifest([([*rows, *rows], tmp_path)], place)
    write_manifest([(rows, tmp_path)], check([(rows, tmp_path)]), place, {"max_length": 5, "too_long": "cut"})
    confirm_manifest([(rows, tmp_path)], place, {"max_length": 5, "too_long": "cut"})
    with pytest.raises(
        InputError, match=r"was for max_length=5 too_long=cut .* this run is for max_length=9;"
    ):
        confirm_manifest([(rows, tmp_path)], place, {"max_length": 9})
    older = {
        key: value for key, value in json.loads(place.read_text()).items() if key not in ("faults", "limits")
    }
    place.write_text(json.dumps(older))
    confirm_manifest([(rows, tmp_path)], place, {"max_length": 9})


def test_a_row_is_shown_as_it_is_trained() -> None:
    assert show(talk("one two", "three four"), Path(), Words()) == "r: 4 tokens, 2 trained\n3 3 [5] [4]"
