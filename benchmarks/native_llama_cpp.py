"""llama.cpp decoding for `native_decode.py`, in a Python that has llama-cpp-python and gguf.

    PYTHON native_llama_cpp.py '{"file": "M.gguf", "kind": "Q8_0", "layers": 22, ...}'

Writes a model file of random weights if there is none, reads a prompt of `context` tokens for each of `rows`
texts, says so, and for each line that comes runs so many steps of the first so many texts and says what one
took, in milliseconds. The same places are written again each time.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HEAD = {"Q4_0": "Q8_0"}  # the head of 4-bit files has 8 bits, as ours has


def write(given: dict[str, Any]) -> None:
    """A Llama whose layers all hold the same random numbers: what a step costs does not depend on them."""
    import gguf  # pyright: ignore[reportMissingImports]  # it is in no environment of ours

    drawn = np.random.default_rng(0)
    hidden, inner, tokens = given["hidden_size"], given["intermediate_size"], given["vocab_size"]
    heads, stored = given["num_attention_heads"], given["num_key_value_heads"]
    width = hidden // heads
    part = Path(given["file"] + ".part")
    file = gguf.GGUFWriter(part, "llama")
    file.add_context_length(given["max_position_embeddings"])
    file.add_embedding_length(hidden)
    file.add_block_count(given["layers"])
    file.add_feed_forward_length(inner)
    file.add_head_count(heads)
    file.add_head_count_kv(stored)
    file.add_rope_dimension_count(width)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_vocab_size(tokens)
    file.add_tokenizer_model("no_vocab")

    def matrix(kind: str, rows: int, columns: int) -> tuple[Any, Any]:
        named = gguf.GGMLQuantizationType[kind]
        numbers = drawn.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
        return gguf.quants.quantize(numbers, named), named

    def add(name: str, made: tuple[Any, Any]) -> None:
        file.add_tensor(name, made[0], raw_dtype=made[1])

    kind: str = given["kind"]
    shapes = {
        "attn_q": (hidden, hidden), "attn_k": (stored * width, hidden), "attn_v": (stored * width, hidden),
        "attn_output": (hidden, hidden), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }  # fmt: skip
    layer = {name: matrix(kind, *shape) for name, shape in shapes.items()}
    ones = np.ones(hidden, dtype=np.float32)
    add("token_embd.weight", matrix(kind, tokens, hidden))
    add("output.weight", matrix(HEAD.get(kind, kind), tokens, hidden))
    file.add_tensor("output_norm.weight", ones)
    for number in range(given["layers"]):
        for name, made in layer.items():
            add(f"blk.{number}.{name}.weight", made)
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{number}.{name}.weight", ones)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    part.rename(given["file"])


class Texts:
    """An opened model with the keys and values of some texts."""

    def __init__(self, native: Any, given: dict[str, Any]) -> None:
        self.native = native
        self.context, self.rows = given["context"], given["rows"]
        native.llama_backend_init()
        settings = native.llama_model_default_params()
        self.model = native.llama_model_load_from_file(given["file"].encode(), settings)
        chosen = native.llama_context_default_params()
        chosen.n_ctx = self.rows * (self.context + 64)
        chosen.n_seq_max = self.rows
        chosen.n_batch = chosen.n_ubatch = 512
        chosen.n_threads = chosen.n_threads_batch = given["threads"]
        self.state = native.llama_init_from_model(self.model, chosen)
        if not self.model or not self.state:
            raise SystemExit(f"llama.cpp does not open {given['file']}")
        self.memory = native.llama_get_memory(self.state)
        self.batch = native.llama_batch_init(512, 0, 1)
        self.prompt_seconds = [self.read(row) for row in range(self.rows)]

    def read(self, row: int) -> float:
        """Seconds of a whole prompt, of which the last token alone gets scores."""
        begun = time.perf_counter()
        for at in range(0, self.context, 512):
            end = min(at + 512, self.context)
            self.run([(row, place) for place in range(at, end)], told=end == self.context)
        return time.perf_counter() - begun

    def run(self, places: list[tuple[int, int]], *, told: bool = True) -> None:
        """One pass over tokens, each a text and a place in it; scores of each text's last or of none."""
        for number, (row, place) in enumerate(places):
            self.batch.token[number] = 7
            self.batch.pos[number] = place
            self.batch.n_seq_id[number] = 1
            self.batch.seq_id[number][0] = row
            self.batch.logits[number] = told and places[number + 1 : number + 2] != [(row, place + 1)]
        self.batch.n_tokens = len(places)
        if code := self.native.llama_decode(self.state, self.batch):
            raise SystemExit(f"llama_decode ended with {code}")
        self.native.llama_synchronize(self.state)

    def step(self, rows: int) -> float:
        """Milliseconds of one token of each of the first texts; it is forgotten again."""
        begun = time.perf_counter()
        self.run([(row, self.context) for row in range(rows)])
        took = 1000 * (time.perf_counter() - begun)
        for row in range(rows):
            self.native.llama_memory_seq_rm(self.memory, row, self.context, -1)
        return took


def main() -> None:
    """Prepare, say so, and answer line by line."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    import llama_cpp as native  # pyright: ignore[reportMissingImports]  # it is in no environment of ours

    given = json.loads(sys.argv[1])
    silent = native.llama_log_callback(lambda _level, _text, _data: None)
    native.llama_log_set(silent, ctypes.c_void_p(0))
    if not Path(given["file"]).exists():
        write(given)
    texts = Texts(native, given)
    about = {
        "version": native.__version__, "bytes": Path(given["file"]).stat().st_size,
        "prompt_seconds": min(texts.prompt_seconds),
    }  # fmt: skip
    print(json.dumps(about), file=told)
    for line in sys.stdin:
        asked = json.loads(line)
        texts.step(asked["rows"])
        times = [texts.step(asked["rows"]) for _ in range(asked["steps"])]
        print(json.dumps(statistics.median(times)), file=told)


if __name__ == "__main__":
    main()
