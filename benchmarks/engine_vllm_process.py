"""vLLM answering for `engine_vllm.py`, in vLLM's own Python: one line of JSON in, one out, until none comes.

    PYTHON engine_vllm_process.py '{"model": "FOLDER", ...}'      # what vllm.LLM is given

In: `prompts` (ids with one placeholder for each picture, the file of the picture or null, and how many tokens
to answer with). Out: `seconds` from the opened pictures to the last answer, and `answers` with the ids.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    """Open the model, say so, and answer line by line."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    import vllm  # pyright: ignore[reportMissingImports]  # it is not in our environment
    from PIL import Image

    model = vllm.LLM(**json.loads(sys.argv[1]))
    print(json.dumps({"version": vllm.__version__}), file=told)
    for line in sys.stdin:
        prompts, settings = [], []
        for one in json.loads(line)["prompts"]:
            prompt = {"prompt_token_ids": one["ids"]}
            if one["picture"]:
                shown = Image.open(one["picture"])
                shown.load()
                prompt["multi_modal_data"] = {"image": shown}
            prompts.append(prompt)
            settings.append(
                vllm.SamplingParams(
                    temperature=0.0, max_tokens=one["tokens"], ignore_eos=True, detokenize=False
                )
            )
        begun = time.perf_counter()
        outputs = model.generate(prompts, settings, use_tqdm=False)
        seconds = time.perf_counter() - begun
        answers = [
            {
                "ids": list(output.outputs[0].token_ids),
                "prompt": len(output.prompt_token_ids),
                "cached": output.num_cached_tokens,
            }
            for output in outputs
        ]
        print(json.dumps({"seconds": seconds, "answers": answers}), file=told)


if __name__ == "__main__":
    main()
