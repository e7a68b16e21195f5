"""One question about all pictures of a folder, as JSON lines: examples/batch_folder.py FOLDER QUESTION"""

import json
import sys
from pathlib import Path

import beholder

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}

folder, question = Path(sys.argv[1]), sys.argv[2]
vlm = beholder.load()
waiting = []
for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS):
    content = [{"type": "image", "path": str(path)}, {"type": "text", "text": question}]
    try:
        waiting.append((path, vlm.submit([{"role": "user", "content": content}], max_tokens=64)))
    except beholder.InputError as error:  # one bad picture does not end the others
        print(json.dumps({"picture": path.name, "error": str(error)}))
for path, stream in waiting:
    answer = stream.read()
    print(json.dumps({"picture": path.name, "answer": answer.text}, ensure_ascii=False))
vlm.close()
