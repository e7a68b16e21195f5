"""Boxes of a phrase in every picture of a folder, as COCO: python examples/ground_to_coco.py FOLDER PHRASE"""

import sys
from pathlib import Path

import beholder
from beholder.grounding.export import BoxedPicture, to_coco
from beholder.processing.images import open_picture

folder, phrase = Path(sys.argv[1]), sys.argv[2]
vlm = beholder.load()
boxed = []
for path in sorted(folder.glob("*.png")):
    picture = open_picture(path)
    found = vlm.ground(picture, phrase, max_tokens=64)
    boxed.append(BoxedPicture(path.name, *picture.size, found.boxes, found.labels))
    print(f"{path.name}: {len(found.boxes)} boxes", file=sys.stderr)
print(to_coco(boxed), end="")
