"""Run by torchrun: a model in as many parts as there are processes answers as the recorded whole does."""

from __future__ import annotations

import sys

import torch


def main() -> None:
    from tests.parity import golden_360vl, golden_cogvlm, golden_llava
    from transformers.distributed import DistributedConfig

    from beholder.families.cogvlm.modeling import CogVLMForConditionalGeneration
    from beholder.families.llava.modeling import LlavaForConditionalGeneration
    from beholder.families.qh360vl.modeling import QH360VLForConditionalGeneration

    cases = {
        "360vl": (
            QH360VLForConditionalGeneration, golden_360vl.FOLDER, lambda: golden_360vl.inputs_of("cc"),
            lambda: golden_360vl.released_model(),
        ),
        "llava": (
            LlavaForConditionalGeneration, golden_llava.FOLDER / "llava" / "model",
            lambda: golden_llava.inputs_of("llava", "one_image"), lambda: golden_llava.model_of("llava"),
        ),
        "cogvlm": (
            CogVLMForConditionalGeneration, golden_cogvlm.FOLDER / "model",
            lambda: golden_cogvlm.inputs_of("chat"), lambda: golden_cogvlm.model(),
        ),
    }  # fmt: skip
    for name in sys.argv[1:]:
        model_class, folder, inputs, whole = cases[name]
        model = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            distributed_config=DistributedConfig(tp_plan="auto"),
        ).eval()
        with torch.no_grad():
            ours, wanted = model(**inputs()).logits, whole()(**inputs()).logits
        finite = wanted.isfinite()
        far = float((ours - wanted)[finite].abs().max())
        parameter = next(
            p
            for n, p in model.named_parameters()
            if n.endswith("q_proj.weight") and "layers" in n and "vision_tower" not in n
        )
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        rank = torch.distributed.get_rank()
        full = dict(whole().named_parameters())[
            next(n for n, p in model.named_parameters() if p is parameter)
        ].numel()
        sys.stdout.write(f"RESULT {name} {rank} {far:.3e} {full // local.numel()}\n")
        sys.stdout.flush()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
