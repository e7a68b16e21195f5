"""Models that only transformers knows answer as its own `generate` does, through load, ask and chat."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import beholder
from beholder.checkpoints.doctor import diagnose
from beholder.checkpoints.inspect import examine
from beholder.core.errors import CheckpointError, ConfigError, InputError
from beholder.core.types import Message, Sampling
from beholder.families import identify_folder

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PLACE{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LENGTH = 8


def tokenizer_of(*specials: str) -> Any:
    """Bytes, and special tokens after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    engine = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>", *specials)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=engine, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def text_of(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return TEXT | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id} | ends | more


def llava_next(folder: Path) -> type:
    tokenizer = tokenizer_of("<image>")
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **TOWER, "image_size": 28, "patch_size": 14},
        text_config={"model_type": "llama", **text_of(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=4,
    )
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
    )
    transformers.LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE.replace("PLACE", "<image>"),
    ).save_pretrained(folder)  # fmt: skip
    return save(transformers.LlavaNextForConditionalGeneration, config, folder)


def llava_of_other_parts(folder: Path) -> type:
    """transformers' LLaVA class around another tower and another language model, as LLaVA-Interleave has."""
    tokenizer = tokenizer_of("<image>")
    config = transformers.LlavaConfig(
        vision_config={"model_type": "siglip_vision_model", **TOWER, "image_size": 28, "patch_size": 14},
        text_config={"model_type": "qwen2", **text_of(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    transformers.LlavaProcessor(
        transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28}), tokenizer, patch_size=14,
        vision_feature_select_strategy="full", num_additional_image_tokens=0,
        chat_template=TEMPLATE.replace("PLACE", "<image>"),
    ).save_pretrained(folder)  # fmt: skip
    return save(transformers.LlavaForConditionalGeneration, config, folder)


def idefics3(folder: Path) -> type:
    tags = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tags)
    tokenizer = tokenizer_of(*marks)
    config = transformers.Idefics3Config(
        vision_config={**TOWER, "image_size": 28, "patch_size": 7},
        text_config={"model_type": "llama", **text_of(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    transformers.Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=TEMPLATE.replace("PLACE", "<image>")
    ).save_pretrained(folder)
    return save(transformers.Idefics3ForConditionalGeneration, config, folder)


def qwen2_vl(folder: Path) -> type:
    """Positions in three dimensions, and a processor whose part for videos needs what is not installed."""
    tokenizer = tokenizer_of("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("vision_start_token_id", "vision_start"), ("vision_end_token_id", "vision_end"),
            ("image_token_id", "image_pad"), ("video_token_id", "video_pad"),
        )
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = transformers.Qwen2VLConfig(
        text_config=text_of(tokenizer, rope_parameters=rope),
        vision_config={
            "depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14
        },
        **ids,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    tokenizer.save_pretrained(folder)
    images = transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 3136})
    images.save_pretrained(folder)
    place = "<|vision_start|><|image_pad|><|vision_end|>"
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("PLACE", place))
    stored = json.loads((folder / "preprocessor_config.json").read_text())
    stored["processor_class"] = "Qwen2VLProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(stored))
    return save(transformers.Qwen2VLForConditionalGeneration, config, folder)


def blip_2(folder: Path) -> type:
    """No chat template, learned positions, and a `generate` of its own."""
    tokenizer = tokenizer_of("<image>")
    config = transformers.Blip2Config(
        vision_config={**TOWER, "image_size": 28, "patch_size": 14},
        qformer_config={**TOWER, "encoder_hidden_size": 16, "vocab_size": 30, "cross_attention_frequency": 1},
        text_config={
            "model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": 32, "ffn_dim": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 32,
            "max_position_embeddings": 256, "pad_token_id": 1, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = transformers.BlipImageProcessorPil(size={"height": 28, "width": 28})
    transformers.Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return save(transformers.Blip2ForConditionalGeneration, config, folder)


def save(model_class: Any, config: Any, folder: Path) -> type:
    """A random model whose greedy answers do not repeat one token."""
    torch.manual_seed(7)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder)
    return model_class


BUILDERS: dict[str, Callable[[Path], type]] = {
    "llava_next": llava_next, "idefics3": idefics3, "qwen2_vl": qwen2_vl, "blip-2": blip_2,
    "llava": llava_of_other_parts,
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, type]]:
    made: dict[str, tuple[Path, type]] = {}

    def of(kind: str) -> tuple[Path, type]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "model"
            made[kind] = folder, BUILDERS[kind](folder)
        return made[kind]

    return of


def picture() -> Image.Image:
    image = Image.new("RGB", (40, 30), (200, 30, 60))
    image.paste((10, 90, 220), (5, 5, 20, 25))
    return image


def expected(folder: Path, model_class: Any, inputs: dict[str, Any]) -> list[int]:
    """What transformers alone generates."""
    model = model_class.from_pretrained(folder).eval()
    with torch.inference_mode():
        said = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
    # A `generate` that starts from embeddings gives back the answer alone.
    start = inputs["input_ids"].shape[1] if said.shape[1] > LENGTH else 0
    return said[0, start:].tolist()


@pytest.mark.parametrize("kind", BUILDERS)
def test_ask_says_what_generate_says(kind, built):
    folder, model_class = built(kind)
    vlm = beholder.load(folder, device="cpu")
    assert (vlm.family.name, vlm.family.title) == ("other", kind)
    inputs = dict(vlm.processor.encode([Message.user(picture(), "What is this?")]))
    wanted = expected(folder, model_class, inputs)
    assert len(set(wanted)) > 2
    answer = vlm.ask(picture(), "What is this?", max_tokens=LENGTH)
    assert list(vlm.engine.submit(inputs, Sampling(max_tokens=LENGTH))) == wanted
    assert answer.text == vlm.processor.tokenizer.decode(wanted, skip_special_tokens=True).strip()
    assert answer.usage.completion_tokens == LENGTH
    assert answer.usage.picture_tokens > 0
    assert answer.finish_reason == "length"
    assert vlm.ask(picture().rotate(180), "What is this?", max_tokens=LENGTH).text != answer.text


@pytest.mark.parametrize("kind", ["llava_next", "idefics3", "qwen2_vl"])
def test_chat_with_turns_uses_the_template_and_the_processor_of_the_checkpoint(kind, built):
    folder, model_class = built(kind)
    vlm = beholder.load(folder, device="cpu")
    turns = [Message.user("one", picture()), Message.assistant("two"), Message.user("three")]
    given = [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image", "image": picture()}]},
        {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
    ]
    theirs = vlm.processor.processor.apply_chat_template(
        given, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    wanted = expected(folder, model_class, dict(theirs))
    answer = vlm.chat(turns, max_tokens=LENGTH)
    assert answer.text == vlm.processor.tokenizer.decode(wanted, skip_special_tokens=True).strip()
    assert vlm.chat("only words", max_tokens=3).usage.picture_tokens == 0


def test_end_tokens_stops_closing_and_seeds_work_as_everywhere(built):
    folder, _ = built("llava_next")
    vlm = beholder.load(folder, device="cpu")
    inputs = vlm.processor.encode([Message.user(picture(), "go")])
    said = list(vlm.engine.submit(inputs, Sampling(max_tokens=LENGTH)))
    end = said[3]
    request = vlm.engine.submit(inputs, Sampling(max_tokens=LENGTH), (end,))
    assert list(request) == said[: said.index(end) + 1]
    assert request.finish_reason == "stop"
    open_stream = vlm.stream([Message.user(picture(), "go")], max_tokens=500)
    open_stream.close()
    assert open_stream.answer.finish_reason == "cancelled"
    drawn = [vlm.ask(picture(), "go", temperature=2.0, seed=seed, max_tokens=6).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    scored = vlm.ask(picture(), "go", logprobs=2, max_tokens=2)
    assert [score.token for score in scored.scores] == said[:2]
    stats = vlm.engine.stats()
    assert (stats.running, stats.waiting, stats.failed) == (0, 0, 0)
    vlm.close()
    with pytest.raises(RuntimeError, match="closed"):
        vlm.ask(picture(), "go")


def test_a_missing_or_misshapen_tensor_is_an_error_with_its_name(built, tmp_path):
    folder, _ = built("llava_next")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("linear_2.weight"))
    kept = {key: tensor for key, tensor in tensors.items() if key != name}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors missing: .*linear_2\.weight"):
        beholder.load(broken, device="cpu")
    save_file(
        {**tensors, name: tensors[name][1:].contiguous()}, broken / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=r"1 tensors of another shape: .*linear_2\.weight"):
        beholder.load(broken, device="cpu")
    assert diagnose(folder, identify_folder).is_healthy
    (finding,) = diagnose(broken, identify_folder).findings
    assert "1 tensors of another shape" in finding.problem


def test_what_is_not_possible_is_said(built):
    folder, _ = built("blip-2")
    vlm = beholder.load(folder, device="cpu")
    with pytest.raises(InputError, match="no chat template"):
        vlm.chat([Message.user("a"), Message.assistant("b"), Message.user("c")])
    with pytest.raises(InputError, match="only with a picture"):
        vlm.ask(None, "What?")
    with pytest.raises(InputError, match="reads as a picture"):
        vlm.ask(picture(), "Is <image> a word?")
    with pytest.raises(ConfigError, match=r"renamed by transformers .* beholder\.load checks"):
        examine(folder, vlm.family)
    with pytest.raises(ConfigError, match="one layout"):
        vlm.family.key_table(vlm.model.config)
    with pytest.raises(ConfigError, match="base="):
        beholder.load(folder, device="cpu", base=folder)


def test_one_type_of_two_systems(built, tmp_path):
    """LLaVA's own parts are ours; with a template of another system they are that system's."""
    parts = {"text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", **parts}))
    assert identify_folder(tmp_path).name == "llava"
    for file, template, name in (
        ("chat_template.json", "{{ 'USER: ' }}{{ 'ASSISTANT:' }}", "llava"),
        ("tokenizer_config.json", "<|start_header_id|>", "llava"),
        ("chat_template.json", "<|start_header_id|>", "other"),
    ):
        (tmp_path / file).write_text(json.dumps({"chat_template": template}))
        assert identify_folder(tmp_path).name == name
    folder, theirs = built("llava")
    opened = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    assert type(opened) is theirs


def test_what_nobody_knows_stays_an_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="no family that is known"):
        identify_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(ConfigError, match="no family that is known"):
        identify_folder(tmp_path)
