"""OpenVINO GenAI answering for `native_openvino.py`, in a Python that has openvino-genai.

    PYTHON native_openvino_process.py '{"folder": "FOLDER-int8", "settings": {"INFERENCE_NUM_THREADS": 2}}'

Opens an exported folder, says so, and for each line that comes (`picture`, a file; `prompt`, with `<image>`
where it stands; `tokens`) answers greedily with so many tokens and says how long the first took, the opened
picture's preparation in it, and each of those after it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Open the model, say so, and answer line by line."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    import numpy as np
    import openvino  # pyright: ignore[reportMissingImports]  # it is in no environment of ours
    import openvino_genai as genai  # pyright: ignore[reportMissingImports]
    from PIL import Image

    class Clock(genai.StreamerBase):
        """Notes when tokens came."""

        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []

        def write(self, token: Any) -> Any:
            """One token has come, or several."""
            count = len(token) if isinstance(token, list) else 1
            self.times += [time.perf_counter()] * count
            return genai.StreamingStatus.RUNNING

        def end(self) -> None:
            """Nothing is left to do."""

    given, begun = json.loads(sys.argv[1]), time.perf_counter()
    model = genai.VLMPipeline(given["folder"], "CPU", **given["settings"])
    print(json.dumps({"version": genai.__version__, "open_s": time.perf_counter() - begun}), file=told)
    settings = model.get_generation_config()
    settings.do_sample, settings.ignore_eos, settings.apply_chat_template = False, True, False
    for line in sys.stdin:
        asked = json.loads(line)
        settings.max_new_tokens = asked["tokens"]
        shown, clock = Image.open(asked["picture"]).convert("RGB"), Clock()
        begun = time.perf_counter()
        pixels = openvino.Tensor(np.asarray(shown)[None])
        done = model.generate(asked["prompt"], images=[pixels], generation_config=settings, streamer=clock)
        told_now = {
            "times": [moment - begun for moment in clock.times],
            "prompt_tokens": done.perf_metrics.get_num_input_tokens(),
        }
        print(json.dumps(told_now), file=told)


if __name__ == "__main__":
    main()
