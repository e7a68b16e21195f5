"""The drawn worlds: reproducible and apart by split, drawn where they say, and asked about without doubt."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from beholder.core.errors import ConfigError
from beholder.mini import colours, shapes
from beholder.mini.asking import absent, ask_count, ask_exists, ask_where, box_text
from beholder.mini.backgrounds import Background
from beholder.mini.dataset import Plan, write
from beholder.mini.describing import describe
from beholder.mini.drawing import draw_scene
from beholder.mini.fonts import BUILT_IN, FontBook
from beholder.mini.naming import COLOURS_EN, SHAPES_EN, SIZES_EN, Description, unique
from beholder.mini.phrasings import ALTERNATIVES, wordings
from beholder.mini.questions import MAKERS, conversation, evaluation_questions
from beholder.mini.relations import SIDES_EN, SIDES_ZH, ask_whether_side, ask_which_side, side_of
from beholder.mini.scenes import Finish, Scene, Thing, overlap
from beholder.mini.sheets import sample_sheet
from beholder.mini.worlds import SIZES, SPLITS, scene_at, stream

FONTS = FontBook()
WHITE = Background("plain", "white", ((255, 255, 255),))
CLEAN = Finish(supersampling=3, blur=0.0, noise=0.0, noise_seed=0, quality=None)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene_at(11, "train", index, FONTS) for index in range(250)]


def thing(shape: str, colour: str, x: float, y: float, size: str = "medium", rotation: float = 0.0) -> Thing:
    """A plain thing of 200 × 200 pictures."""
    extent = 200 * sum(SIZES[size]) / 2
    half_width, half_height = shapes.half_size(shapes.contours(shape, 0.5, extent, rotation))
    rgb = colours.ANCHORS[colour][0]
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    return Thing(shape, colour, size, rgb, x, y, extent, rotation, 0.5, None, "flat", rgb, 0.0, box)


def scene_of(*things: Thing) -> Scene:
    return Scene(200, 200, WHITE, things, (), CLEAN)


PAIR = scene_of(thing("circle", "red", 50, 60), thing("star", "blue", 150, 140, "large"))


def test_a_scene_can_be_drawn_again_alone(scenes):
    again = scene_at(11, "train", 137, FontBook())
    assert again == scenes[137]
    assert draw_scene(again, FONTS).tobytes() == draw_scene(scenes[137], FONTS).tobytes()


def test_seeds_and_indices_change_the_scene(scenes):
    assert len({scene.key for scene in scenes}) > 240
    assert scene_at(12, "train", 3, FONTS) != scenes[3]


def test_a_sheet_is_a_crowd_whose_writings_stay_apart():
    for index in range(6):
        sheet = scene_at(4, "train", index, FONTS, sample_sheet)
        assert sheet == scene_at(4, "train", index, FontBook(), sample_sheet)
        assert len(sheet.things) >= 8
        assert len(sheet.writings) >= 4
        for first, second in itertools.combinations(sheet.writings, 2):
            assert not overlap(first.area, second.area)
        for thing in sheet.things:
            assert not any(overlap(thing.box, writing.area) for writing in sheet.writings)


def test_crowded_data_asks_nothing_and_names_everything(tmp_path):
    write(tmp_path, Plan(2, 4, "train", crowded=True), FONTS)
    rows = json.loads((tmp_path / "conversations.json").read_text())
    assert [len(row["conversations"]) for row in rows] == [0, 0]
    sheet = scene_at(4, "train", 0, FONTS, sample_sheet)
    letters = sum(len(writing.text) for writing in sheet.writings)
    assert len(rows[0]["objects"]) == len(sheet.things) + letters
    with pytest.raises(ConfigError, match="crowded sheets are for training; split is 'test'"):
        Plan(2, 4, "test", crowded=True)


def test_one_language_is_asked_in_alone(tmp_path):
    for language, split in (("zh", "train"), ("en", "test")):
        manifest = write(tmp_path / split, Plan(6, 4, split, language=language), FONTS)
        assert {kind.rpartition("/")[2] for kind in manifest["counts"]["kinds"]} == {language}
    asked = json.loads((tmp_path / "test" / "questions.json").read_text("utf-8"))
    assert {row["language"] for row in asked} == {"en"}
    with pytest.raises(ConfigError, match="unknown language 'fr'; use one of en, zh"):
        Plan(1, 1, "train", language="fr")


def test_described_data_asks_for_descriptions_alone(tmp_path):
    write(tmp_path, Plan(3, 4, "train", described=True), FONTS)
    rows = json.loads((tmp_path / "conversations.json").read_text())
    assert [len(row["conversations"]) for row in rows] == [2, 2, 2]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {kind.split("/")[0] for kind in manifest["counts"]["kinds"]} == {"describe_boxes"}
    with pytest.raises(ConfigError, match="nothing is asked about crowded sheets"):
        Plan(2, 4, "train", crowded=True, described=True)


def test_splits_share_no_scene(scenes):
    keys = {split: {scene_at(11, split, index, FONTS).key for index in range(40)} for split in SPLITS}
    for split in SPLITS:
        assert all(scene_at(11, split, index, FONTS).domain == split for index in range(5))
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & (keys["train"] | keys["test"])


def test_the_same_content_belongs_to_one_split_whatever_its_pixels():
    shifted = scene_of(*(replace(t, rgb=(250, 3, 3), rotation=1.0) for t in PAIR.things))
    assert (shifted.key, shifted.domain) == (PAIR.key, PAIR.domain)
    assert scene_of(PAIR.things[0]).key != PAIR.key


@pytest.mark.parametrize("rotation", [0.0, 17.0])
@pytest.mark.parametrize("shape", shapes.NAMES)
def test_a_thing_is_drawn_in_its_box_and_fills_it(shape, rotation):
    item = thing(shape, "black", 100, 90, "large", rotation)
    dark = np.asarray(draw_scene(scene_of(item), FONTS).convert("L")) < 128
    rows, columns = np.nonzero(dark)
    drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    # The tips of stars and moons are thinner than a pixel.
    assert np.abs(np.subtract(drawn, item.box)).max() <= 2.5


def test_shapes_are_unlike_each_other_even_stretched():
    masks = {}
    for shape in shapes.NAMES:
        dark = (
            np.asarray(draw_scene(scene_of(thing(shape, "black", 100, 100, "large")), FONTS).convert("L"))
            < 128
        )
        rows, columns = np.nonzero(dark)
        cut = Image.fromarray(dark[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
        masks[shape] = np.asarray(cut.resize((32, 32)))
    for first in shapes.NAMES:
        for second in shapes.NAMES:
            if first < second:
                common = (masks[first] & masks[second]).sum() / (masks[first] | masks[second]).sum()
                assert common < 0.8, (first, second, common)


def test_things_are_whole_and_none_hides_another(scenes):
    for scene in scenes:
        boxes = [item.box for item in scene.things]
        for place, box in enumerate(boxes):
            assert min(box) >= 0
            assert box[2] <= scene.width
            assert box[3] <= scene.height
            for other in boxes[:place]:
                least = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
                assert overlap(box, other) <= 0.15 * least
            assert all(overlap(box, writing.area) == 0 for writing in scene.writings)


def test_every_thing_differs_from_the_background_or_has_an_outline(scenes):
    for scene in scenes:
        for item in scene.things:
            edge = item.outline.rgb if item.outline else item.rgb
            nearest = max(colours.nearest(rgb, scene.background.shades) for rgb in (edge, item.rgb))
            assert nearest >= 115


def test_writings_stay_readable_when_squeezed(scenes):
    found = [(scene, writing) for scene in scenes for writing in scene.writings]
    assert len(found) > 80
    for scene, writing in found:
        assert 1 <= len(writing.text) <= 6
        mask = FONTS.ink(writing.text, writing.font, writing.size)
        assert mask.height / scene.height * 192 >= 9
        assert mask.width / scene.width * 192 / len(writing.text) >= 6


def test_a_writing_is_drawn_in_its_box(scenes):
    for scene in [scene for scene in scenes if len(scene.writings) == 1][:20]:
        bare = replace(scene, background=WHITE, things=(), finish=CLEAN)
        black = replace(scene.writings[0], rgb=(0, 0, 0), plate=None)
        dark = np.asarray(draw_scene(replace(bare, writings=(black,)), FONTS).convert("L")) < 155
        rows, columns = np.nonzero(dark)
        drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(drawn, black.box)).max() <= 1


def test_colour_values_keep_their_names():
    rng = stream(1, "train", 0, "colours")
    for name in colours.NAMES:
        for _ in range(60):
            rgb = colours.pick(name, rng)
            names = [other for other in colours.NAMES if colours.belongs(rgb, other)]
            # An anchor at the edge of its region may be nobody's, but nothing is ever another's.
            assert names == [name] or (rgb in colours.ANCHORS[name] and not names), (rgb, names)


@pytest.mark.parametrize("rgb", [(255, 0, 255), (0, 128, 128), (255, 99, 71), (210, 105, 30), (60, 60, 60)])
def test_values_that_people_name_differently_belong_to_no_name(rgb):
    assert [name for name in colours.NAMES if colours.belongs(rgb, name)] == []


def test_boxes_are_three_digits_of_thousandths():
    assert box_text([(0.0, 50.0, 100.0, 200.0)], PAIR) == "[[000,250,500,999]]"
    assert box_text([(0, 0, 20, 20), (2, 2, 199.9, 199.9)], PAIR) == "[[000,000,100,100;010,010,999,999]]"


def test_a_description_fits_only_what_it_names(scenes):
    for scene in scenes:
        for item in scene.things:
            rng = stream(5, "train", 0, "describe")
            description = unique(scene, item, rng)
            if description:
                assert description.select(scene) == [item]
            if hidden := unique(scene, item, rng, ("colour",)):
                assert hidden.colour is None


def test_two_of_a_kind_are_not_told_apart_by_their_kind():
    twins = scene_of(thing("circle", "red", 60, 100), thing("circle", "red", 62, 160))
    assert Description(shape="circle").select(twins) == list(twins.things)
    assert Description(shape="circle", edge="left").select(twins) == []
    assert Description(shape="circle", edge="top").select(twins) == [twins.things[0]]


def test_what_is_absent_is_absent(scenes):
    rng = stream(2, "train", 0, "absent")
    for scene in scenes:
        assert absent(scene, rng).select(scene) == []


def test_sides_need_a_margin():
    left, right = PAIR.things
    assert side_of(left, right, True, PAIR) == "left"
    assert side_of(right, left, False, PAIR) == "below"
    assert side_of(left, replace(left, x=left.x + 20), True, PAIR) is None


def test_descriptions_have_one_wording():
    assert describe(PAIR, "en") == "There are 2 objects: a medium red circle and a large blue star."
    assert describe(PAIR, "zh") == "有2个物体：中等的红色圆形、大的蓝色星形。"
    assert describe(scene_of(), "en") == "There are no objects."
    boxed = describe(PAIR, "en", boxes=True)
    first, second = (box_text([item.box], PAIR) for item in PAIR.things)
    assert boxed == f"There are 2 objects: a medium red circle {first} and a large blue star {second}."


def judge(question, scene: Scene) -> None:
    """Check an answer against the scene by other means than the maker used, where the kind allows it."""
    if question.kind == "count":
        assert question.answer == str(question.truth["count"])
        assert 0 <= question.truth["count"] <= len(scene.things)
    elif question.kind in ("colour", "shape", "size") and question.language == "en":
        assert question.answer == question.truth[question.kind].capitalize() + "."
        held = {getattr(item, question.kind) for item in scene.things}
        extra = (
            {w.colour for w in scene.writings} | {scene.background.colour}
            if question.kind == "colour"
            else set()
        )
        assert question.truth[question.kind] in held | extra
    elif question.kind == "read" and scene.writings:
        assert question.answer in {w.text for w in scene.writings} | {
            " ".join(w.text for w in sorted(scene.writings, key=lambda w: w.y))
        }
    elif question.kind == "where":
        assert re.fullmatch(r"\[\[\d{3},\d{3},\d{3},\d{3}\]\]", question.answer)
        assert tuple(question.truth["box"]) in [item.box for item in (*scene.things, *scene.writings)]
    elif question.kind in ("exists", "relation") and "yes" in question.truth:
        yes, no = (
            ({"Yes."}, {"No."}) if question.language == "en" else ({"是。", "有。"}, {"不是。", "没有。"})
        )
        assert question.answer in (yes if question.truth["yes"] else no)


def understood(question: str) -> Description:
    """What an English question about one kind of thing speaks of, by its words alone."""
    words = re.sub(r"[^a-z -]", " ", question.lower())

    def named(names: dict[str, tuple[str, ...]]) -> str | None:
        found = [
            (-len(word), name)
            for name, forms in names.items()
            for word in forms
            if re.search(rf"\b{word}(s|es)?\b", words)
        ]
        return min(found)[1] if found else None

    hues = {name: COLOURS_EN.get(name, (name,)) for name in colours.NAMES}
    return Description(named(SIZES_EN), named(hues), named(SHAPES_EN))


def test_counts_and_presence_follow_from_the_words_of_the_question(scenes):
    checked = 0
    for place, scene in enumerate(scenes):
        rng = stream(11, "train", place, "words")
        for question in [
            ask_count(scene, "en", rng),
            ask_exists(scene, "en", rng),
            ask_count(scene, "en", rng),
        ]:
            told = understood(question.question)
            fitting = len(told.select(scene))
            if question.kind == "count":
                assert question.answer == str(fitting), question.question
            elif told != Description() and " the " not in question.question.replace(" the p", "").lower():
                assert question.answer == ("Yes." if fitting else "No."), question.question
            checked += 1
    assert checked > 500


@pytest.mark.parametrize("side", ["left", "right", "above", "below"])
def test_a_claimed_side_is_true_exactly_when_the_answer_is_yes(side):
    answers = set()
    for index in range(20):
        rng = stream(1, "train", index, side)
        question = ask_whether_side(side, {"one": "X", "other": "Y"}, "en", rng)
        claimed = any(word in question.question for word in SIDES_EN[side])
        assert question.answer == ("Yes." if claimed else "No.")
        answers.add(question.answer)
        chosen = ask_which_side(side, {"one": "X", "other": "Y"}, "zh", rng)
        assert chosen.answer == SIDES_ZH[side][0] + "。"
    assert answers == {"Yes.", "No."}


def test_answers_are_right_and_questions_whole(scenes):
    for place, scene in enumerate(scenes):
        for question in conversation(scene, stream(11, "train", place, "conversation")):
            assert question.kind in MAKERS
            assert "{" not in question.question
            assert question.question.strip()
            assert question.answer.strip()
            judge(question, scene)


def test_a_red_circle_is_asked_for_and_found():
    asked = [ask_where(PAIR, "en", stream(1, "train", index, "where")) for index in range(40)]
    for question in asked:
        about_star = "star" in question.question or "blue" in question.question
        about_circle = (
            "circle" in question.question or "red" in question.question or "disc" in question.question
        )
        if about_star != about_circle:
            assert question.truth["box"] == list(PAIR.things[about_star].box)


def test_no_kind_and_no_answer_dominates(scenes):
    asked = [q for i, s in enumerate(scenes) for q in conversation(s, stream(11, "train", i, "conversation"))]
    yes = [q.truth["yes"] for q in asked if "yes" in q.truth]
    assert 0.4 < sum(yes) / len(yes) < 0.6
    shares = {kind: sum(q.kind == kind for q in asked) / len(asked) for kind in MAKERS}
    assert 0.12 < shares["exists"] < 0.28
    assert min(shares[kind] for kind in ("count", "colour", "shape", "relation", "where", "read")) > 0.05
    assert 0.25 < sum(q.language == "zh" for q in asked) / len(asked) < 0.45


@pytest.mark.parametrize("language", ["en", "zh"])
def test_evaluation_asks_every_kind_once(language, scenes):
    rich = next(scene for scene in scenes if len(scene.things) > 2 and scene.writings)
    asked = evaluation_questions(rich, stream(1, "test", 0, "ask"), language)
    assert len({q.kind for q in asked}) == len(asked) >= 8
    assert {q.language for q in asked} == {language}


def test_wordings_are_many_and_only_use_known_slots():
    known = {
        "place",
        "pic",
        "in_pic",
        "of_pic",
        "text",
        "one",
        "other",
        "many",
        "a",
        "value",
        "side",
        "thing",
    }
    known |= {"first", "second", "first_short", "second_short", ""}
    for kind, languages in wordings().items():
        for language, texts in languages.items():
            for text in texts:
                slots = re.findall(r"\{([^{}]*)\}", ALTERNATIVES.sub("", text))
                assert set(slots) <= known, (kind, language, text)
    main = (
        "exists",
        "count",
        "colour",
        "shape",
        "relation",
        "choice",
        "read",
        "where",
        "describe",
        "with_boxes",
    )
    for kind in main:
        assert len(set(wordings()[kind]["en"])) >= 14, kind
        assert len(set(wordings()[kind]["zh"])) >= 9, kind


def test_fonts_that_are_no_letters_are_left_out(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    assert FontBook.scan(tmp_path).names == (BUILT_IN,)


def test_a_data_set_is_whole_and_the_same_with_more_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("beholder.mini.shards.SHARD", 5)
    plan = Plan(scenes=12, seed=4, split="test", start=3)
    manifest = write(tmp_path / "one", plan, FONTS)
    write(tmp_path / "two", plan, FONTS, workers=2)
    rows = json.loads((tmp_path / "one" / "conversations.json").read_text(encoding="utf-8"))
    assert rows == json.loads((tmp_path / "two" / "conversations.json").read_text(encoding="utf-8"))
    assert len(rows) == 12 == manifest["counts"]["conversations"]
    assert rows[0]["id"] == "test-4-0000003"
    for row in rows:
        with Image.open(tmp_path / "one" / row["image"]) as picture:
            picture.load()
        turns = row["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns[0]["value"].startswith("<image>\n")
        assert sum("<image>" in turn["value"] for turn in turns) == 1
    asked = json.loads((tmp_path / "one" / "questions.json").read_text(encoding="utf-8"))
    assert {row["image"] for row in asked} == {row["image"] for row in rows}
    assert manifest["fonts"][0]["name"] == BUILT_IN
    assert not (tmp_path / "one" / "shards").exists()


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("beholder.mini.shards.SHARD", 4)
    plan = Plan(scenes=12, seed=4, split="train")
    drawn: list[int] = []

    def stop_after_two(done: int) -> None:
        drawn.append(done)
        if len(drawn) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "data", plan, FONTS, progress=stop_after_two)
    assert not (tmp_path / "data" / "manifest.json").exists()
    write(tmp_path / "data", plan, FONTS, progress=drawn.append)
    assert drawn == [4, 4, 4]
    write(tmp_path / "whole", plan, FONTS)
    names = ("conversations.json", "manifest.json")
    for name in names:
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_of_other_settings_is_refused(tmp_path):
    write(tmp_path, Plan(scenes=1, seed=1, split="train"), FONTS)
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        write(tmp_path, Plan(scenes=1, seed=2, split="train"), FONTS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"scenes": 0}, "scenes is 0"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        Plan(**{"scenes": 1, "seed": 1, "split": "train", **settings})
