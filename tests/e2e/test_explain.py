"""`beholder explain`: its numbers are the model's, slots lie where they should, the page loads nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw
from tests.parity import golden_360vl, golden_cogvlm, golden_llava
from tests.structure.repository import ROOT
from tests.unit.test_random_weights import KINDS, tiny

import beholder
from beholder.cli import main
from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.explaining import explain, render
from beholder.explaining.influence import shares
from beholder.explaining.places import places, pooled
from beholder.explaining.watching import watch
from beholder.families.llava.views import LlavaImageProcessor
from beholder.families.qh360vl.views import QH360VLImageProcessor
from beholder.families.random_weights import write_random

SHAPES = ROOT / "examples" / "shapes.png"
QUESTION = "What shape is red? <b>"
CHROMIUM = Path("/usr/bin/chromium")
SIZES = [(200, 120), (90, 210), (150, 150)]


@pytest.fixture(scope="module")
def told():
    vlm = beholder.load(dtype="float32")
    pictures = [Image.open(SHAPES).convert("RGB"), Image.new("RGB", (50, 90), "white")]
    said = explain(vlm, [Message.user(pictures[0], "a", pictures[1], QUESTION)], max_tokens=6)
    return vlm, said


def test_rows_of_attention_sum_to_one(told):
    _, said = told
    for rows in said.attention:
        assert rows.shape == (len(said.said), len(said.texts) - 1)
        torch.testing.assert_close(rows.sum(-1), torch.ones(len(rows)), rtol=0, atol=1e-5)
        assert (rows >= 0).all()
    torch.testing.assert_close(said.attention[0], torch.stack(said.attention[1:]).mean(0))


def test_slots_are_where_the_pictures_are(told):
    vlm, said = told
    conversation = [Message.user(said.pictures[0].picture, "a", said.pictures[1].picture, QUESTION)]
    ids = vlm.processor.encode(conversation)["input_ids"][0]
    marked = torch.zeros(len(ids), dtype=torch.bool)
    for shown in said.pictures:
        marked[shown.start : shown.start + shown.slots] = True
    assert torch.equal(marked, ids == vlm.processor.image_token_id)
    assert said.texts[: said.pictures[0].start][-1] == "\n"
    assert said.texts[said.pictures[0].start + said.pictures[0].slots].strip() in ("", "a")


def test_heat_is_the_share_of_the_picture(told):
    _, said = told
    for picture in (0, 1):
        for token in range(len(said.said)):
            heat = said.heat(0, token, picture)
            assert [part.shape for part in heat] == [(8, 8)] * 5
            assert float(sum(part.sum() for part in heat)) == pytest.approx(
                said.share(token, picture), abs=1e-5
            )


def test_tokens_and_probabilities(told):
    _, said = told
    assert "".join(one.text for one in said.said).startswith(said.answer.text)
    for one in said.said:  # greedy: the likeliest was chosen
        assert one.probability == pytest.approx(one.likeliest[0][1], abs=1e-6)
        assert one.text == one.likeliest[0][0]
        assert sum(value for _, value in one.likeliest) <= 1 + 1e-6


def golden_cases():
    yield "360vl", golden_360vl.model_of("cc"), golden_360vl.inputs_of("cc")
    yield "llava", golden_llava.model_of("llava"), golden_llava.inputs_of("llava", "one_image")
    yield "internvl", golden_llava.model_of("internvl"), golden_llava.inputs_of("internvl", "one_image")
    yield "cogvlm", golden_cogvlm.model(), golden_cogvlm.inputs_of("chat")
    yield "cogvlm ends with a picture", golden_cogvlm.model(), golden_cogvlm.inputs_of("base_empty")


@pytest.mark.parametrize("case", list(golden_cases()), ids=lambda case: case[0])
def test_watching_is_what_transformers_tells(case):
    """The same weights and logits as the model's own answer to `output_attentions`, on the goldens."""
    _, model, inputs = case
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    said = [5, 9, 7]
    watched = watch(model, inputs, said)
    prompt = inputs["input_ids"].shape[1]
    whole = dict(inputs, input_ids=torch.cat([inputs["input_ids"], torch.tensor([said[:-1]])], dim=1))
    if "token_type_ids" in whole:
        whole["token_type_ids"] = torch.nn.functional.pad(whole["token_type_ids"], (0, 2))
    if "attention_mask" in whole:
        whole["attention_mask"] = torch.nn.functional.pad(whole["attention_mask"], (0, 2), value=1)
    with torch.inference_mode():
        outputs = model(**whole, output_attentions=True)
    layers = torch.stack([layer[0, :, prompt - 1 :].mean(0) for layer in outputs.attentions])
    torch.testing.assert_close(watched.attention_KAT, layers, rtol=0, atol=1e-6)
    torch.testing.assert_close(watched.logits_AV, outputs.logits[0, prompt - 1 :], rtol=0, atol=1e-5)
    torch.testing.assert_close(watched.attention_KAT.sum(-1), torch.ones(layers.shape[:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_every_family(name, tmp_path):
    folder = tmp_path / "model"
    write_random(name, folder, layers=2, dtype="float32", changes=tiny(name))
    vlm = beholder.load(folder)
    said = explain(vlm, [Message.user(Image.open(SHAPES).convert("RGB"), "What?")], max_tokens=3)
    (shown,) = said.pictures
    assert shown.slots == vlm.processor.slots(shown.picture) == shown.places.spread_NL.shape[0]
    sums = shown.places.spread_NL.sum(-1)
    assert ((sums - 1).abs() < 1e-5).sum() == shown.slots - (2 if name == "cogvlm-chat" else 0)
    for rows in said.attention:
        torch.testing.assert_close(rows.sum(-1), torch.ones(len(rows)), rtol=0, atol=1e-5)
    assert render(said, vlm.processor.image_processor).count("data:image/png") >= len(shown.places.views)


def marked(size, place) -> Image.Image:
    picture = Image.new("RGB", size, "white")
    x, y = place
    ImageDraw.Draw(picture).rectangle([x - 6, y - 6, x + 6, y + 6], fill="black")
    return picture


def settings(kind: str):
    """Configuration and processor as far as places are told from them, and the views of a picture."""
    if kind.startswith("360vl"):
        _, plan, aspect = kind.split()
        images = QH360VLImageProcessor(side=56, aspect=aspect, plan="single" if plan == "single" else "five")
        projector = SimpleNamespace(queries=16, depth=1, eos_tokens=1)
        tower = SimpleNamespace(image_size=56, patch_size=7)
        config = SimpleNamespace(projector_config=projector, vision_config=tower, views=plan)
        return "qh360vl", config, images, lambda p: images.views(p).reshape(-1, 3, 56, 56)
    aspect = kind.split()[1]
    pins = [[56, 112], [112, 56], [112, 112]] if aspect == "anyres" else None
    images = LlavaImageProcessor(side=56, aspect=aspect, grid_pinpoints=pins)
    config = SimpleNamespace(
        picture_side=56, patch_side=7, vision_feature_select_strategy="full", patch_merge_type="spatial_unpad"
    )
    if aspect == "anyres":
        config.vision_feature_select_strategy = "default"
    return (
        "llava",
        config,
        images,
        lambda p: images.inputs([p])["pixel_values"].numpy().reshape(-1, 3, 56, 56),
    )


@pytest.mark.parametrize(
    "kind",
    ["360vl corners pad", "360vl corners square", "360vl separate pad", "360vl single pad",
     "360vl single square", "llava pad", "llava square", "llava anyres"],
)  # fmt: skip
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_mark_lies_in_the_cell_that_shows_it(kind, size):
    """Drawn in the original picture, a mark is darkest in the very cell of a view whose frame says so."""
    family, config, images, views_of = settings(kind)
    place = (size[0] // 2 + 11, size[1] // 2 - 14)
    picture = marked(size, place)
    laid = places(family, config, SimpleNamespace(image_processor=images), picture)
    found = 0
    views = views_of(picture)
    plain = views_of(Image.new("RGB", size, "white"))
    assert len(views) == len(laid.views)
    for view, pixels, empty in zip(laid.views, views, plain, strict=True):
        frame = view.frame
        column = (place[0] - frame.left) / frame.width * view.columns
        row = (place[1] - frame.top) / frame.height * view.rows
        if not (0.3 < column < view.columns - 0.3 and 0.3 < row < view.rows - 0.3):
            continue
        found += 1
        darkness = torch.from_numpy(empty - pixels).sum(0).clamp_min(0)
        ys, xs = torch.meshgrid(torch.arange(56.0), torch.arange(56.0), indexing="ij")
        centre = ((darkness * xs).sum() / darkness.sum() + 0.5, (darkness * ys).sum() / darkness.sum() + 0.5)
        assert centre[0] / 7 == pytest.approx(column, abs=0.35)
        assert centre[1] / 7 == pytest.approx(row, abs=0.35)
    assert found


def test_pooling_is_torchs():
    for side, queries in ((8, 4), (7, 3), (12, 5), (4, 4)):
        values = torch.rand(side, side)
        pooling = torch.nn.AdaptiveAvgPool2d(queries)(values[None])
        ours = (pooled(side, queries) @ values.flatten()).reshape(1, queries, queries)
        torch.testing.assert_close(ours, pooling)


def test_a_changed_patch_changes_the_slot_that_is_drawn_there(told):
    """The built-in model's own projector: the slot that a patch moves most is the one whose window has it."""
    vlm, said = told
    inner, shown = vlm.model.model, said.pictures[0]
    corners, _ = inner.patch_maps(shown.pixels[None])
    queries = vlm.model.config.projector_config.queries
    before = inner.corner_abstractor(corners)[0]
    hits = 0
    cells = range(3, corners.shape[1], 17)
    for cell in cells:
        changed = corners.clone()
        changed[0, cell] += 0.5 * corners[0, cell].norm() / corners.shape[2] ** 0.5
        moved = (inner.corner_abstractor(changed)[0] - before).norm(dim=-1)
        hits += bool(pooled(16, int(queries**0.5))[int(moved[:queries].argmax()), cell] > 0)
    assert hits / len(cells) > 0.9
    inside, near = shares(inner.corner_abstractor, corners, 20, queries)
    assert 0.25 < inside <= near <= 1


def test_a_model_of_transformers_is_refused_and_so_is_a_conversation_without_pictures(told):
    vlm, said = told
    with pytest.raises(InputError, match="no picture"):
        explain(vlm, "What shape is red?")
    with pytest.raises(InputError, match="it can for cogvlm, internvl_chat, llava, qh360vl"):
        places("other", None, None, said.pictures[0].picture)


class Links(HTMLParser):
    """Everything on a page that a browser would load or go to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "srcset", "data")
        ]


def test_the_page_loads_nothing(told):
    vlm, said = told
    page = render(said, vlm.processor.image_processor)
    assert Links(page).found == ["data:,"]
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|//[a-z]+\.|@import|\burl\(|fetch\(|XMLHttp", page)
    assert "<b>" not in page
    assert "{{" not in page


def test_the_page_has_the_numbers(told):
    vlm, said = told
    page = render(said, vlm.processor.image_processor)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["question"] == "a" + QUESTION
    assert [part["picture"] for part in data["prompt"] if "picture" in part] == [0, 1]
    share = data["shares"][0][2]
    assert share["pictures"] == [pytest.approx(said.share(2, number)) for number in (0, 1)]
    total = sum(share["pictures"]) + share["first"] + share["prompt"] + share["answer"]
    assert total == pytest.approx(1, abs=1e-5)
    assert data["pictures"][0]["heat"]["count"] == 5 * 64


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")
def test_the_page_draws_in_a_browser(told, tmp_path):
    from playwright.sync_api import sync_playwright

    vlm, said = told
    page_file = tmp_path / "explain.html"
    page_file.write_text(render(said, vlm.processor.image_processor), encoding="utf-8")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        troubles: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        page.locator("#answer button").nth(1).click()
        page.locator("#depth").select_option("2")
        page.wait_for_function("document.body.dataset.shown === '1/2'")
        assert page.locator("canvas").count() == 12
        assert page.locator("#prompt .picture").count() == 2
        assert page.evaluate("document.querySelector('canvas').width") == 640
        browser.close()
    assert troubles == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_the_command(tmp_path, capsys):
    out = tmp_path / "page.html"
    command = ["explain", str(SHAPES), "What shape is red?", "-o", str(out), "--max-tokens", "3"]
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert len(summary["tokens"]) <= 3
    assert 0 < summary["tokens"][0]["pictures"][0] < 1
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert main(["explain", str(SHAPES), "What?", "-o", str(tmp_path / "no" / "page.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
