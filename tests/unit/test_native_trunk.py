"""Which trunks the native step takes, and which steps; everything else is refused with the reason."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from tests.equality.native_cases import ensure_built, native_scores, shuffled_texts, tiny_llama
from torch import nn

from beholder.core.errors import ConfigError, InputError
from beholder.generation.native.memory import KeyValues
from beholder.generation.native.parts import parts_of
from beholder.generation.native.trunk import PackedTrunk

ensure_built()


def trunk_and_row(**more):
    model = tiny_llama()
    trunk = PackedTrunk.of(model, "float32", threads=1, **more)
    (text,), memory = shuffled_texts(model, [6], extra=1)
    return trunk, text, memory


class TestTrunks:
    def test_an_adapter_is_refused(self):
        model = tiny_llama()
        model.model.layers[1].mlp.up_proj = nn.Sequential(model.model.layers[1].mlp.up_proj)
        with pytest.raises(ConfigError, match=r"up of layer 1 is a Sequential.*merge adapters first"):
            parts_of(model)

    def test_another_decoder_is_refused(self):
        class Decoder(nn.Module):
            config = tiny_llama().config

        model = tiny_llama()
        model.get_decoder = Decoder
        with pytest.raises(
            ConfigError, match="knows LlamaModel and MistralModel, and the decoder is a Decoder"
        ):
            parts_of(model)

    def test_a_decoder_may_say_its_parts_itself(self):
        model = tiny_llama()
        wanted = parts_of(model)
        model.model.trunk_parts = lambda head: wanted
        assert parts_of(model) is wanted

    def test_another_activation_is_refused(self):
        with pytest.raises(ConfigError, match="computes silu over full attention, and the decoder has gelu"):
            parts_of(tiny_llama(hidden_act="gelu"))

    def test_another_norm_is_refused(self):
        model = tiny_llama()
        model.model.norm = nn.LayerNorm(64)
        with pytest.raises(ConfigError, match="LayerNorm is no RMS norm"):
            parts_of(model)

    def test_another_epsilon_is_refused(self):
        model = tiny_llama()
        model.model.layers[0].input_layernorm.variance_epsilon = 0.1
        with pytest.raises(ConfigError, match="no RMS norm with epsilon 1e-06"):
            parts_of(model)

    def test_rotary_positions_that_follow_the_length_are_refused(self):
        rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
        with pytest.raises(ConfigError, match="type 'dynamic' change with the length"):
            parts_of(tiny_llama(rope_parameters=rope))

    def test_a_part_of_another_size_is_refused(self):
        model = tiny_llama()
        model.model.layers[0].self_attn.k_proj = nn.Linear(64, 48, bias=False)
        with pytest.raises(ConfigError, match=r"key of layer 0 is \(48, 64\); .* needs \(32, 64\)"):
            parts_of(model)

    def test_an_unknown_level_is_refused(self):
        with pytest.raises(ConfigError, match="kernels 'avx9' are not for this processor; it has"):
            PackedTrunk.of(tiny_llama(), "float32", level="avx9")

    def test_no_threads_are_refused(self):
        with pytest.raises(ConfigError, match="threads is 0"):
            PackedTrunk.of(tiny_llama(), "float32", threads=0)

    def test_more_threads_than_processors_cannot_be_pinned(self):
        with pytest.raises(ConfigError, match="999 threads cannot be pinned"):
            PackedTrunk.of(tiny_llama(), "float32", threads=999, pin=True)


class TestSteps:
    def test_pinning_lasts_for_the_step_only(self):
        trunk, text, memory = trunk_and_row()
        pinned, _, _ = trunk_and_row(pin=True)
        before = os.sched_getaffinity(0)
        assert torch.equal(native_scores(pinned, [text], memory), native_scores(trunk, [text], memory))
        assert os.sched_getaffinity(0) == before

    def test_counts_must_agree(self):
        trunk, text, memory = trunk_and_row()
        with pytest.raises(InputError, match="1 tokens with 2 positions and places of 1 rows"):
            trunk.step([5], [5, 6], memory, [text.ranges(6)])

    def test_no_more_rows_than_made_for(self):
        trunk, text, memory = trunk_and_row(rows=2)
        with pytest.raises(InputError, match="takes up to 2 rows"):
            trunk.step([5] * 3, [5] * 3, memory, [text.ranges(6)] * 3)

    @pytest.mark.parametrize("ranges", [[(0, 10**6)], [(-1, 4)], [(4, 4)]])
    def test_places_outside_of_the_memory_are_refused(self, ranges):
        trunk, _, memory = trunk_and_row()
        with pytest.raises(InputError, match="a range of places is not there"):
            trunk.step([5], [5], memory, [ranges])

    def test_a_row_without_a_place_is_refused(self):
        trunk, _, memory = trunk_and_row()
        with pytest.raises(InputError, match="a row has no place for its token"):
            trunk.step([5], [5], memory, [[]])

    def test_another_memory_is_refused(self):
        trunk, text, _ = trunk_and_row()
        other = KeyValues([(torch.zeros(2, 40, 8), torch.zeros(2, 40, 8))] * 2)
        with pytest.raises(InputError, match=r"\(2, 2, 8\); the trunk has \(2, 2, 16\)"):
            trunk.step([5], [5], other, [text.ranges(6)])

    def test_embeddings_of_another_width_are_refused(self):
        trunk, text, memory = trunk_and_row()
        with pytest.raises(InputError, match=r"\(1, 63\); the trunk takes \(rows, 64\)"):
            trunk.step(torch.zeros(1, 63), [5], memory, [text.ranges(6)])

    def test_a_position_before_the_beginning_is_refused(self):
        trunk, text, memory = trunk_and_row()
        with pytest.raises(InputError, match="position -1"):
            trunk.step([5], [-1], memory, [text.ranges(6)])

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python from 3.12 on
    def test_not_after_a_fork(self):
        """The threads stay in the parent; a child that waited for them would wait for ever."""
        trunk, text, memory = trunk_and_row()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                native_scores(trunk, [text], memory)
                told = "nothing"
            except InputError as error:
                told = str(error)
            os.write(writing, told.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert "forked" in os.read(reading, 1000).decode()

    def test_threads_end_with_the_trunk(self):
        def tasks() -> int:
            return len(os.listdir("/proc/self/task"))

        before = tasks()
        trunk = PackedTrunk.of(tiny_llama(), "float32", threads=4)
        assert tasks() == before + 3
        del trunk
        # A thread that was joined may be listed for a moment longer.
        patience = time.monotonic() + 10
        while tasks() != before and time.monotonic() < patience:
            time.sleep(0.01)
        assert tasks() == before

    def test_another_thread_may_run_steps(self):
        trunk, text, memory = trunk_and_row()
        wanted, found = native_scores(trunk, [text], memory), []
        worker = threading.Thread(target=lambda: found.append(native_scores(trunk, [text], memory)))
        worker.start()
        worker.join()
        assert torch.equal(found[0], wanted)


class TestMemory:
    def test_layers_must_be_alike(self):
        pairs = [(torch.zeros(2, 8, 4), torch.zeros(2, 8, 4)), (torch.zeros(2, 9, 4), torch.zeros(2, 8, 4))]
        with pytest.raises(ConfigError, match=r"layer 1 are torch.float32 of \(2, 9, 4\)"):
            KeyValues(pairs)

    def test_other_dtypes_are_refused(self):
        with pytest.raises(ConfigError, match=r"those of layer 0 are torch\.float16 on cpu"):
            KeyValues([(torch.zeros(2, 8, 4).half(), torch.zeros(2, 8, 4).half())])

    def test_there_must_be_a_layer(self):
        with pytest.raises(ConfigError, match="no layer"):
            KeyValues([])
