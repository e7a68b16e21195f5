"""Templates, ids, labels and pixels of LLaVA and InternVL-Chat are the originals'."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.parity.golden_llava import FOLDER, PICTURE, beside_base, recorded, tokenizer, told

from beholder.core.errors import ConfigError
from beholder.core.types import Message
from beholder.families.llava.processing import LlavaProcessor
from beholder.families.llava.prompts import Sample, SampleMaker, prompt_ids
from beholder.families.llava.templates import END, START, template_named
from beholder.families.llava.tiles import best_resolution
from beholder.families.llava.views import LlavaImageProcessor
from beholder.processing.pieces import PieceEncoder
from beholder.processing.templates import Segment, rendered_text

KINDS = ("llava", "internvl")
RECORDS = {
    "current": "tokenization/records.json",
    "release": "tokenization/records_transformers_4.31.0_v1.json",
}
NAMES = {"v1": "vicuna_v1"}  # what --version calls them


@cache
def records(generation: str) -> tuple[dict, ...]:
    return tuple(told(RECORDS[generation])["records"])


def pieces_for(record: dict, generation: str) -> PieceEncoder:
    added = (START, END) if record["mm_use_im_start_end"] else ()
    marking = "legacy" if record["legacy"] else {"current": "current", "release": "stripped"}[generation]
    return PieceEncoder(tokenizer(*added), marking)


def made(record: dict, generation: str) -> Sample:
    template = template_named(NAMES.get(record["template"], record["template"]))
    maker = SampleMaker(
        pieces_for(record, generation), template, record["model_max_length"], record["mm_use_im_start_end"]
    )
    return maker.make(record["conversation"], has_image=record["has_image"])


@pytest.mark.parametrize("generation", RECORDS)
def test_training_samples(generation):
    for record in records(generation):
        sample, name = made(record, generation), (record["template"], record["name"], record["legacy"])
        assert sample.input_ids == record["input_ids"], name
        assert sample.labels == record["labels"], name
        assert sample.warning == record["printed"].strip(), name


def messages_of(record: dict) -> list[Message]:
    """The record as a user of this package brings it: pictures are pictures."""
    picture = Image.new("RGB", (8, 8))
    turns = record["conversation"]
    turns = turns[1:] if turns[0]["from"] != "human" else turns
    messages = []
    for turn in turns:
        text = turn["value"]
        if turn["from"] == "gpt":
            messages.append(Message.assistant(text))
        elif record["has_image"] and "<image>" in text:
            messages.append(Message.user(picture, text.replace("<image>", "")))
        else:
            messages.append(Message.user(text))
    return messages


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("template", ["v1", "llava_llama_2", "plain", "v1_mmtag"])
def test_the_processor_trains_the_same_tokens(template, legacy):
    """Labels follow from where the answer stands; wherever the original found it as well, they are the
    same."""
    views = LlavaImageProcessor(side=8)
    compared = 0
    for record in records("current"):
        is_plain_case = record["template"] == template and record["legacy"] == legacy
        if not is_plain_case or record["printed"] or record["model_max_length"] != 2048:
            continue
        if template == "plain" and record["name"] in ("empty_assistant", "eos_in_answer"):
            continue  # the original trains a newline that is nobody's answer; and reads </s> in an answer
        added = (START, END) if record["mm_use_im_start_end"] else ()
        processor = LlavaProcessor(
            views,
            tokenizer(*added),
            template_name=NAMES.get(template, template),
            marking="legacy" if legacy else "current",
            image_token_id=PICTURE,
            slots_per_picture=1,
            use_start_end=record["mm_use_im_start_end"],
        )
        sample = processor.encode_training(messages_of(record))
        assert sample["input_ids"] == record["input_ids"], record["name"]
        labels = [-100 if label == PICTURE else label for label in record["labels"]]
        assert sample["labels"] == labels, record["name"]
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_rendered_templates(kind):
    golden = told(f"prompts/{kind}.json")
    for name, cases in golden["rendered"].items():
        template = template_named(name)
        for case, wanted in cases.items():
            if isinstance(wanted, dict):  # the original raises here
                continue
            turns = []
            for question, answer in golden["messages"][case]:
                turns.append((template.roles[0], [Segment("text", question)]))
                turns.append((template.roles[1], None if answer is None else [Segment("text", answer)]))
            assert rendered_text(template.segments(turns), "<image>") == wanted, (name, case)


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_about_a_picture(kind):
    """As the original's web demo writes it; the mmtag templates there show the picture in a turn of its
    own."""
    for name, wanted in told(f"prompts/{kind}.json")["rendered_tuple_first_message"].items():
        if "mmtag" in name:
            continue
        message = Message.user(Image.new("RGB", (8, 8)), "Describe it")
        segments = template_named(name).render([message], add_generation_prompt=True)
        assert rendered_text(segments, "<image>") == wanted, name


def test_data_of_the_templates():
    for kind in KINDS:
        for name, told_of in told(f"prompts/{kind}.json")["templates"].items():
            template = template_named(name)
            assert (template.system, list(template.roles)) == (told_of["system"], told_of["roles"]), name
            assert (template.separator, template.end) == (told_of["sep"], told_of["sep2"]), name
            assert list(template.preset) == [text for _, text in told_of["preset_messages"]], name
    with pytest.raises(ConfigError, match="there is no conversation template 'vicuna'"):
        template_named("vicuna")


@pytest.mark.parametrize("legacy", [True, False])
def test_raw_prompts(legacy):
    pieces = PieceEncoder(tokenizer(), "legacy" if legacy else "current")
    for text, wanted in told("prompts/llava.json")["tokenizer_image_token"][f"legacy_{legacy}"].items():
        assert [1, *prompt_ids(text, pieces)] == wanted, text


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_the_model_goldens(kind):
    processor = LlavaProcessor(
        LlavaImageProcessor(side=8), tokenizer(), image_token_id=PICTURE, slots_per_picture=1
    )
    for case, told_of in told(f"{kind}/cases.json").items():
        if isinstance(told_of, dict) and "prompt" in told_of:
            ids = processor.prompt_ids(told_of["prompt"], None)
            assert ids == recorded(kind)[f"{case}.input_ids"][0].tolist(), case


def test_a_users_words_stay_words():
    processor = LlavaProcessor(
        LlavaImageProcessor(side=8), tokenizer(), image_token_id=512, slots_per_picture=4
    )
    ids = processor.encode([Message.user("</s><image> <unk>")])["input_ids"][0].tolist()
    assert not {2, 0, 512} & set(ids)
    asked = processor.encode([Message.user(Image.new("RGB", (8, 8)), "<image>?")])
    assert asked["input_ids"][0].tolist().count(512) == 4


def picture(name: str) -> Image.Image:
    return Image.open(FOLDER / "preprocess" / f"{name}.png").convert("RGB")


def test_pixels():
    io, info = load_file(FOLDER / "preprocess" / "io.safetensors"), told("preprocess/info.json")
    for processor, settings in info["processors"].items():
        for mode in ("pad", "square"):
            views = LlavaImageProcessor(
                settings["crop_size"]["height"], settings["image_mean"], settings["image_std"], mode
            )
            for name in info["images"]:
                key = f"{processor}.{mode}.{name}"
                found = torch.from_numpy(views.view(picture(name)))
                if key in io:
                    assert torch.equal(found, io[key]), key
                    continue
                assert torch.equal(found[:, ::7, ::7], io[f"{key}.every7"]), key
                assert hashlib.sha256(found.numpy().tobytes()).hexdigest() == info["full"][key]["sha256"], key


def test_tiles():
    io, info = load_file(FOLDER / "preprocess" / "io.safetensors"), told("preprocess/info.json")
    choices = told("llava/cases.json")["anyres"]["image_grid_pinpoints"]
    views = LlavaImageProcessor(56, aspect="anyres", grid_pinpoints=choices)
    for name in info["images"]:
        assert torch.equal(torch.from_numpy(views.tiles(picture(name))), io[f"tiny_clip.anyres.{name}"]), name
    both = views.inputs([picture("landscape"), picture("portrait")])
    assert both["pixel_values"].shape == (2, 5, 3, 56, 56)
    assert both["image_sizes"].tolist() == [[61, 97], [120, 53]]
    for case in info["anyres_select_llava16"]["cases"]:
        chosen = best_resolution(tuple(case["size_wh"]), info["anyres_select_llava16"]["pinpoints"])
        assert list(chosen) == case["best"]


@pytest.mark.parametrize("kind", ["lora", "stage1"])
def test_a_folder_without_a_tokenizer_takes_its_bases(kind, tmp_path: Path):
    name = {"lora": "llava-tiny-lora", "stage1": "llava-tiny-pretrain"}[kind]
    processor = LlavaProcessor.from_pretrained(beside_base(kind, name, tmp_path))
    assert processor.image_token_id == 512
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == 512
    assert processor.image_processor.aspect == {"lora": "pad", "stage1": "square"}[kind]
    assert processor.slots_per_picture == 16
    assert processor.terminators == (2,)


def test_saved_and_opened_again(tmp_path: Path):
    folder = beside_base("lora", "llava-tiny-lora", tmp_path)
    processor = LlavaProcessor.from_pretrained(folder, template_name="llava_v1", marking="legacy")
    processor.save_pretrained(tmp_path / "saved")
    for file in ("config.json",):
        (tmp_path / "saved" / file).write_bytes((folder / file).read_bytes())
    again = LlavaProcessor.from_pretrained(tmp_path / "saved")
    asked = [Message.user(picture("landscape"), "What is it?")]
    for name, value in processor.encode(asked).items():
        assert torch.equal(again.encode(asked)[name], value), name
    assert again.template_name == "llava_v1"
    assert again.pieces.marking == "legacy"


def test_as_transformers_uses_it(tmp_path: Path):
    processor = LlavaProcessor.from_pretrained(beside_base("lora", "llava-tiny-lora", tmp_path))
    conversation = [
        {
            "role": "user",
            "content": [{"type": "image", "image": picture("portrait")}, {"type": "text", "text": "Why?"}],
        }
    ]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert text.endswith("USER: <image>\nWhy? ASSISTANT:")
    batch = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    direct = processor(images=[picture("portrait")], text=text, return_tensors="pt")
    assert torch.equal(batch["input_ids"], direct["input_ids"])
    assert torch.equal(batch["pixel_values"], direct["pixel_values"])
