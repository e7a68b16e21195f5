"""A benchmark of your own, scored twice and compared: python examples/evaluate_own.py FOLDER"""

import json
import shutil
import sys
from pathlib import Path

from beholder.cli import main

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
shutil.copy("examples/shapes.png", folder)
rows = [
    {"image": "shapes.png", "question": "What shape is red?", "answer": "circle"},
    {"image": "shapes.png", "question": "Is there a star?", "answer": "yes"},
    {"image": "shapes.png", "question": "What is green?", "options": ["a heart", "nothing"], "answer": "B"},
    {"image": "shapes.png", "question": "Where is the blue square?", "box": [400, 70, 570, 240]},
]
questions = folder / "mine.jsonl"
questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
main(["eval", str(questions), "--out", str(folder / "whole")])
main(["eval", str(questions), "--out", str(folder / "single"), "--batch", "1"])
sys.exit(
    main(["eval", "--compare", str(folder / "whole" / "mine"), "--compare", str(folder / "single" / "mine")])
)
