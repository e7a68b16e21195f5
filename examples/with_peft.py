"""An adapter by PEFT's own means on a model opened here: python examples/with_peft.py FOLDER

Three steps on one picture, to show that it learns; for a real run use `beholder train`, which resumes.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

import beholder

vlm = beholder.load(dtype="float32")
targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"
model = get_peft_model(vlm.model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
row = vlm.processor.encode_training(
    [
        beholder.Message.user(Image.open("examples/shapes.png").convert("RGB"), "What is this?"),
        beholder.Message.assistant("Four shapes on white."),
    ]
)
batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
optimizer = torch.optim.AdamW((weight for weight in model.parameters() if weight.requires_grad), lr=1e-3)
for step in range(3):
    loss = model(**batch, pixel_values=row["pixel_values"]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.3f}")
model.save_pretrained(Path(sys.argv[1]))
