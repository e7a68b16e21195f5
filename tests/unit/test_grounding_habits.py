"""How checkpoints are asked for boxes, and what is read from their answers."""

from __future__ import annotations

from types import SimpleNamespace as Some

import pytest

from beholder.core.errors import InputError
from beholder.core.types import Answer, Box, Timings, Usage
from beholder.families import cogvlm, llava, qh360vl
from beholder.grounding.boxes import Frame
from beholder.grounding.habits import Grounding, Habits

SIZE = (200, 100)
WIDE = Frame.padded_square(*SIZE)
PLAIN = Frame.picture(*SIZE)


def answer(text: str, habits: Habits, frame: Frame = PLAIN) -> Answer:
    return Answer(
        text, "stop", Usage(1, 0, 1), Timings(0, 0, 0), boxes=habits.boxes(text, frame, SIZE, picture=1)
    )


@pytest.mark.parametrize(
    ("dialects", "text", "boxes"),
    [
        (("thousandths",), "[[250,500,750,999]] or [0.1,0.2,0.3,0.4]", [(50, 50, 150, 99.9)]),
        (("unit-list",), "[0.25,0.5,0.75,1.0] or [[100,200,300,400]]", [(50, 50, 150, 100)]),
        (
            ("unit-list", "thousandths"),
            "[[000,000,500,500]] then [0.25,0.5,0.75,1.0]",
            [(0, 0, 100, 50), (50, 50, 150, 100)],
        ),
        (("tagged",), "<ref>dog</ref><box>(0,0),(500,1000)</box>", [(0, 0, 100, 100)]),
    ],
)
def test_only_the_forms_of_the_checkpoint_are_read(dialects, text, boxes):
    found = Habits(dialects=dialects).boxes(text, PLAIN, SIZE, picture=1)
    assert found == tuple(Box(*corners, 1) for corners in boxes)


def test_fractions_are_of_the_frame_that_the_checkpoint_sees():
    assert Habits().boxes("[[250,500,750,999]]", WIDE, SIZE) == (Box(50, 50, 150, 100),)


def test_what_was_found_for_a_phrase():
    habits = Habits(dialects=("tagged", "thousandths"))
    text = "<ref> a cat </ref><box>(0,0),(500,1000)</box> [[250,500,750,999]] [[900,0,100,5]]"
    found = Grounding.of("animal", answer(text, habits), habits)
    assert found.labels == ("a cat", "animal")
    assert len(found.boxes) == 2
    assert "wrong order" in found.reason
    nothing = Grounding.of("animal", answer("I see none.", habits), habits)
    assert (nothing.boxes, nothing.labels) == ((), ())
    assert "holds no box" in nothing.reason


def test_questions():
    habits = Habits(question="Where is {phrase}?", region_question="What is {box}?")
    assert habits.asked(" the {cat} ") == "Where is the {cat}?"
    assert habits.asked("cat", "{phrase}, please") == "cat, please"
    assert habits.asked_about(Box(50, 50, 150, 100), PLAIN) == "What is [[250,500,750,999]]?"
    with pytest.raises(InputError, match=r"has no \{phrase\}"):
        habits.asked("cat", "Where?")
    with pytest.raises(InputError, match=r"has no \{box\}"):
        habits.asked_about(Box(0, 0, 1, 1), PLAIN, "What?")
    with pytest.raises(InputError, match="the phrase is empty"):
        habits.asked("  ")


def routed(template: str, side: int) -> Habits:
    return cogvlm.FAMILY.boxes(Some(vision_config=Some(image_size=side)), Some(template=template))


@pytest.mark.parametrize(("template", "side"), [("chat", 490), ("vqa", 490), ("base", 224)])
def test_what_was_not_trained_for_boxes_says_so(template, side):
    habits = routed(template, side)
    for ask in (lambda: habits.asked("cat"), lambda: habits.asked_about(Box(0, 0, 1, 1), PLAIN)):
        with pytest.raises(InputError, match=r"not trained to name boxes.*question of your own"):
            ask()
    assert habits.asked("cat", "Where is {phrase}?") == "Where is cat?"


def test_each_family_is_asked_as_it_was_trained():
    assert routed("base", 490).asked("a cat") == "Where is a cat? answer in [[x0,y0,x1,y1]] format."
    describes = "Please provide the bounding box coordinate of the region this sentence describes: a cat"
    llava_15 = llava.FAMILY.boxes(Some(projector_type="mlp2x_gelu"), None)
    assert llava_15.asked("a cat") == describes
    assert llava_15.asked_about(Box(0, 0, 200, 100), WIDE).endswith("[0.000,0.250,1.000,0.750]")
    with pytest.raises(InputError, match=r"before version 1\.5"):
        llava.FAMILY.boxes(Some(projector_type="linear"), None).asked("a cat")
    published, own = (
        qh360vl.FAMILY.boxes(Some(text_config=Some(hidden_size=width)), None) for width in (4096, 256)
    )
    assert published.asked("a cat") == describes
    assert own.asked("a cat") == "What is the bounding box of the a cat?"
