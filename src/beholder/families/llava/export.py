"""What llava-hf's folders hold beside the weights, so that transformers' own classes open them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beholder.families.llava.processing import PICTURE, add_tokens, open_tokenizer
from beholder.families.llava.views import LlavaImageProcessor

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def write_processor(folder: Path, source: Path, config: Any, base: str | Path | None) -> None:
    """Tokenizer with `<image>`, picture and processor settings, and the tokens that are never generated."""
    tokenizer = open_tokenizer(source, base, {})
    if tokenizer is not None:
        add_tokens(tokenizer, config)
        tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", picture_settings(config))
    write_json(
        folder / "processor_config.json",
        {
            "image_token": PICTURE,
            "num_additional_image_tokens": 1,
            "patch_size": config.patch_side,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
        },
    )
    write_json(folder / "chat_template.json", {"chat_template": PLAIN_TEMPLATE})
    write_generation(folder, config)


def picture_settings(config: Any) -> dict[str, Any]:
    """transformers' own picture processor, told to do what this model's does.

    Its `LlavaImageProcessor` pads to a square in the colour of the mean, as the authors' code does;
    `CLIPImageProcessor`, which llava-hf's own folders name, cuts the borders off.
    """
    views = LlavaImageProcessor.from_model_config(config)
    pads = views.aspect == "pad"
    return {
        "crop_size": {"height": views.side, "width": views.side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(views.image_mean),
        "image_std": list(views.image_std),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": views.side},
        "image_processor_type": "LlavaImageProcessor" if pads else "CLIPImageProcessor",
        **({"do_pad": True} if pads else {}),
    }


def write_generation(folder: Path, config: Any) -> None:
    """The generation settings with the vocabulary's filling suppressed."""
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    text = config.text_config
    defaults = {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id}
    filling = list(range(config.used_rows, text.vocab_size))
    write_json(path, defaults | settings | ({"suppress_tokens": filling} if filling else {}))


def write_json(path: Path, settings: dict[str, Any]) -> None:
    """One JSON file."""
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
