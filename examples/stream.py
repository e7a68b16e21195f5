"""A conversation whose answers appear as they come: python examples/stream.py [PICTURE]"""

import sys

import beholder

picture = sys.argv[1] if len(sys.argv) > 1 else "examples/shapes.png"
vlm = beholder.load()
messages = []
for question in ("Describe the picture.", "What shape is blue?"):
    parts = [{"type": "text", "text": question}]
    if not messages:  # the picture is shown once; later turns remember it
        parts.insert(0, {"type": "image", "path": picture})
    messages.append({"role": "user", "content": parts})
    print(f"> {question}")
    stream = vlm.stream(messages, max_tokens=64)
    for piece in stream:
        print(piece, end="", flush=True)
    print()
    messages.append({"role": "assistant", "content": stream.answer.text})
