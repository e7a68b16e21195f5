"""The page's pure parts: conversations, their files, boxes, streams, texts, and what the API adds for it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio
import pytest
from PIL import Image
from tests.serving_app import Here, error, image

from beholder.core.errors import ConfigError, InputError
from beholder.serving.web import showing
from beholder.serving.web.asking import Wanted, answers, together
from beholder.serving.web.boxes import boxed_picture, boxed_places, labels
from beholder.serving.web.client import CallError, Client, Part, read_event
from beholder.serving.web.conversation import Conversation, Picture, read_conversation
from beholder.serving.web.handlers import Handlers
from beholder.serving.web.mounting import own_address
from beholder.serving.web.showing import Shelf
from beholder.serving.web.texts import TEXTS, language_of

WANTED = Wanted("m", "", None, 0, 1, 0, 64, "", "en")
SOMEBODY: Any = SimpleNamespace(session_hash="somebody")


def picture(size: tuple[int, int] = (60, 40), kind: str = "PNG") -> Picture:
    held = io.BytesIO()
    Image.new("RGB", size, "white").save(held, kind)
    return Picture.of(held.getvalue())


def talked() -> Conversation:
    box = {"picture": 0, "pixels": [10, 5, 30, 25], "normalised": [0.1, 0.1, 0.5, 0.6]}
    first = Conversation().asked("Where is <b>it</b>?\n", [picture()])
    turn = first.turns[0].__class__(
        first.turns[0].question, first.turns[0].pictures, "a star [[100,100,500,600]]", (box,), "stop",
        {"prompt_tokens": 9}, 1.5, "m",
    )  # fmt: skip
    return first.answered(turn).asked("And now?")


class Scripted(Client):
    """A client whose streams bring given parts."""

    parts: tuple[Any, ...] = ()

    async def stream(self, body: Any, key: str = "") -> AsyncGenerator[Part]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part


def scripted(*parts: Any) -> Scripted:
    client = Scripted("http://x/v1")
    object.__setattr__(client, "parts", parts)
    return client


async def gathered(stream: Any) -> list[Any]:
    return [one async for one in stream]


def test_a_conversation_as_the_api_takes_it():
    told = talked().messages()
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    shown, text = told[0]["content"]
    assert shown["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "Where is <b>it</b>?\n"}
    assert told[2]["content"] == "And now?"


def test_a_file_holds_everything():
    held = talked()
    assert read_conversation(held.export()) == held


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda told: told.update(format="x"), "no beholder conversation"),
        (lambda told: told.update(version=2), "version 2"),
        (lambda told: told.pop("turns"), "no list of turns"),
        (lambda told: told["turns"][0].pop("question"), "turn 1 of the file has no proper question"),
        (lambda told: told["turns"][0].update(answer=3), "turn 1 of the file has no proper answer"),
        (lambda told: told["turns"][0].update(boxes=[{"pixels": [1, 2]}]), "no proper boxes"),
        (lambda told: told["turns"][0].update(pictures=["file:///etc/passwd"]), "no data URL"),
        (lambda told: told["turns"][0].update(pictures=["data:image/png;base64,AAAA"]), "is not a PNG"),
    ],
)
def test_a_bad_file_is_refused_with_its_cause(change, cause):
    told = json.loads(talked().export())
    change(told)
    with pytest.raises(InputError, match=cause):
        read_conversation(json.dumps(told))


def test_what_is_not_json_is_refused():
    with pytest.raises(InputError, match="not JSON"):
        read_conversation("{")


def test_asking_again_forgets_what_came_after():
    again = talked().asked_again(0, "What?")
    assert [(turn.question, turn.answer, len(turn.pictures)) for turn in again.turns] == [("What?", None, 1)]


def test_boxes_are_drawn_in_the_pixels_of_the_original():
    assert boxed_places(talked(), 0) == [0]
    drawn = boxed_picture(talked(), 0, 0)
    assert drawn.size == (60, 40)
    first = (0xD5, 0x5E, 0x00)  # the palette's first colour
    assert {drawn.getpixel(corner) for corner in ((10, 5), (30, 5), (10, 25), (30, 25))} == {first}
    assert drawn.getpixel((58, 38)) == (255, 255, 255)


def test_labels_are_what_stands_before_a_box():
    assert labels("a star [[1,2,3,4]] beside a circle [[5,6,7,8]]", 2) == ["a star", "a circle"]
    assert labels("[0.1, 0.2, 0.3, 0.4]", 1) == ["1"]
    assert labels("a star [[1,2,3,4]]", 2) == ["1", "2"]


def test_messages_know_their_turn():
    shown = showing.messages(talked(), Shelf())
    assert [number for number, _ in shown] == [0, 0, 0, 0, 1]
    assert [message["role"] for _, message in shown] == ["user", "user", "assistant", "assistant", "user"]
    assert shown[1][1]["content"] == "Where is &lt;b&gt;it&lt;/b&gt;?\n"


def test_pictures_are_drawn_once(monkeypatch):
    drawn: list[int] = []
    draw = showing.boxed_picture
    monkeypatch.setattr(showing, "boxed_picture", lambda *given: drawn.append(given[2]) or draw(*given))
    shelf = Shelf()
    first, second = (showing.chat(talked(), shelf) for _ in range(2))
    assert first == second
    assert drawn == [0]
    moved = replace(talked().turns[0], boxes=({"picture": 0, "pixels": [1, 2, 3, 4]},))
    showing.chat(Conversation((moved,)), shelf)
    assert drawn == [0, 0]


def test_editing_takes_the_last_question_back_unless_there_is_a_draft():
    handlers, held = Handlers(Client("http://127.0.0.1:1/v1"), Shelf()), talked()
    _, kept, box, told, _ = handlers.edit(held, {"text": "", "files": []}, "en")
    assert kept == held.without_last()
    assert (box["text"], len(box["files"]), told) == (
        held.turns[-1].question,
        len(held.turns[-1].pictures),
        "",
    )
    _, kept, box, told, _ = handlers.edit(kept, {"text": "draft", "files": []}, "en")
    assert kept == held.without_last()
    assert "bad" in told
    assert "text" not in box
    _, kept, box, _, _ = handlers.edit(kept, {"text": "", "files": []}, "en")
    assert (kept.turns, box["text"]) == ((), held.turns[0].question)
    assert [Path(file).read_bytes() for file in box["files"]] == [one.held for one in held.turns[0].pictures]


def edited(held: Conversation, index: int, value: str, box: Any = None, *parts: Any) -> tuple[Any, Any]:
    """What a message that is edited in the chat leads to: the last updates, and all bodies that were sent."""
    client, shelf = scripted(*parts or (Part("yes"), Part(reason="stop"))), Shelf()
    event = gradio.EditData(None, {"index": index, "previous_value": "", "value": value})
    given = (box or {"text": "", "files": []}, held, *vars(WANTED).values())
    updates = asyncio.run(gathered(Handlers(client, shelf).edited(SOMEBODY, event, *given)))
    return updates[-1], client


def test_any_question_is_edited_where_it_stands():
    held = talked()  # picture, question, answer, boxes; question
    (chat, now, *_), _ = edited(held, 1, "How many &lt;b&gt; &amp;amp;?")
    assert [(turn.question, turn.answer) for turn in now.turns] == [("How many <b> &amp;?", "yes")]
    assert now.turns[0].pictures == held.turns[0].pictures
    assert [message["role"] for message in chat] == ["user", "user", "assistant"]
    (_, now, *_), _ = edited(held, 4, "And then?")
    assert [turn.question for turn in now.turns] == [held.turns[0].question, "And then?"]
    assert now.turns[0] == held.turns[0]


def test_an_edited_question_is_not_lost():
    held = talked()
    (_, now, box, told, _), _ = edited(held, 1, "Refuse", None, CallError("no room"))
    assert (now, box["text"], len(box["files"])) == (held, "Refuse", 1)
    assert "no room" in told
    for index, value, draft in ((4, "  ", None), (1, "Other", {"text": "draft", "files": []})):
        (chat, now, box, told, _), _ = edited(held, index, value, draft)
        assert (now, len(chat)) == (held, 5)
        assert "bad" in told
        assert "text" not in box


def test_the_last_answer_is_copied_as_it_was_written():
    handlers = Handlers(Client("http://127.0.0.1:1/v1"), Shelf())
    assert handlers.copied(talked()) == talked().turns[0].answer
    assert handlers.copied(Conversation()) == ""


def test_an_answer_grows():
    box = {"picture": 0, "pixels": [1, 2, 3, 4]}
    client = scripted(Part("A "), Part("star"), Part(boxes=(box,), reason="stop"), Part(usage={"x": 1}))
    found = asyncio.run(gathered(answers(client, Conversation().asked("?"), WANTED)))
    assert [one.turns[0].answer for one in found] == ["A ", "A star", "A star", "A star", "A star"]
    last = found[-1].turns[0]
    assert (last.reason, last.boxes, last.usage, last.model) == ("stop", (box,), {"x": 1}, "m")


def test_two_answers_at_once_and_one_is_refused():
    asked = Conversation().asked("?")
    good = answers(scripted(Part("yes")), asked, WANTED)
    bad = answers(scripted(CallError("no room")), asked, WANTED)
    found = asyncio.run(gathered(together([good, bad])))
    assert [one.turns[0].answer for number, one in found if number == 0] == ["yes", "yes"]
    assert [str(one) for number, one in found if number == 1] == ["no room"]


def test_a_request_has_what_was_set_and_no_more():
    asked = Conversation().asked("?")
    plain = WANTED.body(asked)
    assert plain.keys() == {"model", "messages", "temperature", "max_tokens"}
    rich = Wanted("m", "Be brief.", "vqa", 0.5, 0.9, 7, 64, "", "en").body(asked)
    assert (rich["top_p"], rich["top_k"], rich["template"]) == (0.9, 7, "vqa")
    assert rich["messages"][0] == {"role": "system", "content": "Be brief."}


def test_events_of_a_stream():
    assert read_event('{"choices": [{"delta": {"content": "A"}}]}') == Part("A")
    assert read_event("[DONE]") is None
    with pytest.raises(CallError, match="too slow"):
        read_event('{"error": {"message": "too slow"}}')
    with pytest.raises(CallError, match="in the middle"):
        read_event('{"cho')


def test_addresses():
    assert Client.of("http://h:1").base == Client.of("http://h:1/v1/").base == "http://h:1/v1"
    with pytest.raises(ConfigError, match="no http"):
        Client.of("localhost:8000")
    assert own_address("0.0.0.0", 5) == "http://127.0.0.1:5/v1"
    assert own_address("::", 5) == "http://[::1]:5/v1"
    assert own_address("::1", 5) == "http://[::1]:5/v1"
    assert own_address("box.lan", 5) == "http://box.lan:5/v1"


def test_texts_are_there_in_both_languages():
    assert all(texts.keys() == {"en", "zh"} for texts in TEXTS.values())
    assert (language_of("zh-CN,zh;q=0.9,en;q=0.8"), language_of("fr"), language_of("de,en;q=0.5")) == (
        "zh",
        "en",
        "en",
    )


def test_the_prompt_is_shown_literally():
    told = {
        "picture_spans": [[1, 4]],
        "segments": [
            {"kind": "control", "text": "<s>"},
            {"kind": "picture", "text": ""},
            {"kind": "text", "text": "<image> & <b>"},
        ],
    }
    shown = showing.prompt_html(told, "en")
    assert '<span class="picture">picture 1: 1 – 4</span>' in shown
    assert "&lt;image&gt; &amp; &lt;b&gt;" in shown


def test_a_model_that_is_not_ready_says_why():
    failed = {"id": "m", "state": "failed", "reason": "no such <folder>"}
    assert "no such &lt;folder&gt;" in showing.model_note(failed, "en")
    assert showing.model_choices([failed, {"id": "other"}]) == [("m (failed)", "m"), ("other", "other")]


def test_the_api_explains_a_conversation():
    here = Here()
    messages = [{"role": "user", "content": [image(), {"type": "text", "text": "Hi"}]}]
    body = {"model": "fake", "messages": messages, "template": "loud", "views": True}
    told = here.post("/tokenize", body).json()
    assert told["tokens"] == [0, 0, 0, ord("H"), ord("I")]
    assert (told["picture_spans"], told["prompt"]) == ([[0, 3]], "<image>HI")
    ((first, second),) = told["views"]
    assert first == second
    with Image.open(io.BytesIO(base64.b64decode(first.partition(",")[2]))) as view:
        assert (view.size, view.getpixel((0, 0))) == ((5, 4), (255, 255, 255))
    assert "views" not in here.post("/tokenize", {"model": "fake", "messages": messages}).json()


def test_the_api_refuses_a_template_that_is_not_there():
    here = Here()
    told = error(here.chat(template="shout"), 400, "invalid_value", "template")
    assert told == "this model has no template 'shout'; it has plain, loud"
    body = {"model": "fake", "prompt": "Hi", "views": True}
    assert here.post("/tokenize", body).status_code == 400


def test_the_api_lists_limits_and_templates():
    (model,) = Here(most_pictures=50).get("/v1/models").json()["data"]
    assert model["pictures_per_request"] == 33  # 99 tokens before an answer, three for each picture
    assert (model["template"], model["templates"], model["quantization"]) == (
        "plain",
        ["plain", "loud"],
        None,
    )
