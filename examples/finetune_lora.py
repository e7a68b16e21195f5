"""LoRA on twenty drawn pictures, then a question: python examples/finetune_lora.py FOLDER [STEPS]"""

import sys
from pathlib import Path

import yaml

import beholder
from beholder.cli import main

folder, steps = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50
recipe = {
    "name": "twenty",
    "model": "beholder-mini",  # or a folder, or a hub id
    "output": str(folder / "run"),
    "data": [{"rows": str(folder / "drawn" / "conversations.json"), "pictures": str(folder / "drawn")}],
    "lora": {"rank": 8, "alpha": 16, "targets": {"model.language_model": ["all"]}},
    "learning_rate": 2e-4,
    "steps": steps,
    "global_batch": 2,
    "device_batch": 2,
    "max_length": 2048,
    "workers": 0,
    "precision": "fp32",
}
folder.mkdir(parents=True, exist_ok=True)
(folder / "twenty.yaml").write_text(yaml.safe_dump(recipe))
for command in (
    ["data", "draw", str(folder / "drawn"), "--scenes", "20", "--seed", "5"],
    ["train", str(folder / "twenty.yaml")],
):
    if code := main(command):
        sys.exit(code)
vlm = beholder.load(folder / "run" / "adapter")
print(vlm.ask("examples/shapes.png", "What shape is red?"))
