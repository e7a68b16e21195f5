"""The same checkpoints through transformers alone: python examples/with_transformers.py [MODEL]

`import beholder` is all that is needed: from then on the Auto classes know these models.
"""

import sys

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import beholder  # noqa: F401
from beholder.mini import FOLDER

model_id = sys.argv[1] if len(sys.argv) > 1 else FOLDER  # or a hub id: "qihoo360/360VL-8B"
model = AutoModelForImageTextToText.from_pretrained(model_id, attn_implementation="sdpa")
processor = AutoProcessor.from_pretrained(model_id)
chats = [
    [
        {
            "role": "user",
            "content": [{"type": "image", "path": "examples/shapes.png"}, {"type": "text", "text": text}],
        }
    ]
    for text in ("What shape is red?", "Is there a star?")
]
inputs = processor.apply_chat_template(
    chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
).to(model.dtype)
end = processor.tokenizer.convert_tokens_to_ids("<|eot_id|>")  # where 360VL ends an answer, as Llama-3
with torch.inference_mode():
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False, eos_token_id=end)
answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
print("\n".join(answer.strip() for answer in answers))
