"""What training leaves out of the computation changes no loss and no gradient, in all four families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.equality.training_cases import FAMILIES, checkpoint, opened, write_rows

from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.training.collate import Collator, blank_sample
from beholder.training.data import Conversations
from beholder.training.losses import answer_loss
from beholder.training.packing import PackingCollator, arranged, bins
from beholder.training.rows import read_rows
from beholder.training.sharing import bundles


@pytest.fixture(scope="module", params=FAMILIES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer: Any
) -> Any:
    place = tmp_path_factory.mktemp(request.param)
    folder = checkpoint(request.param, place, llama3_tokenizer)
    model, processor = opened(folder)
    model.set_attn_implementation("eager")
    rows = Conversations([(read_rows(write_rows(place)), Path(place))], processor)
    return model.train(), processor, [rows[number] for number in range(6)]


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare(model: Any, one: torch.Tensor, other: torch.Tensor, *, extra: bool = False) -> None:
    """Losses to 1e-6 and gradients; with `extra` the second may have more of them, all zero."""
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    left, right = gradients(model, one), gradients(model, other)
    assert extra or left.keys() == right.keys()
    for name, gradient in right.items():
        wanted = left.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6, msg=name)


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    batch = {key: value for key, value in batch.items() if key != "rows"}
    return answer_loss(model, model.get_output_embeddings(), batch)[0]


def test_logits_of_trained_positions_are_enough(case: Any) -> None:
    model, processor, samples = case
    batch = Collator(processor.padding_id)(samples)
    batch.pop("rows")
    compare(model, model(**batch).loss, loss_of(model, batch))
    _, outputs = answer_loss(model, model.get_output_embeddings(), batch)
    trained = int((batch["labels"][:, 1:] != -100).sum())
    assert outputs["logits"].shape[:2] == (1, trained)
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_a_step_of_several_passes_is_divided_by_its_trained_tokens(case: Any) -> None:
    model, processor, samples = case
    collate = Collator(processor.padding_id)
    whole = loss_of(model, collate(samples[:4]))
    batches = [collate(samples[:2]), collate(samples[2:4])]
    items = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    head = model.get_output_embeddings()
    parts = [answer_loss(model, head, drop_rows(batch), items)[0] for batch in batches]
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-6)


def drop_rows(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key != "rows"}


def test_packed_rows_are_as_if_alone(case: Any) -> None:
    model, processor, samples = case
    longest = max(len(sample["input_ids"]) for sample in samples)
    rows = Collator(processor.padding_id, max_length=longest * 5 // 2)
    packing = PackingCollator(rows, getattr(model, "lay_out_prompt", None), as_bias=True)
    packed = packing(samples)
    assert 1 < len(packed["input_ids"]) < len(samples)
    compare(model, loss_of(model, rows(samples)), loss_of(model, packed))


def asked_again(samples: list[Any], processor: Any) -> list[Any]:
    """The samples, and two more questions about each picture."""
    found: list[Any] = []
    for number, sample in enumerate(samples):
        found.append(sample)
        if sample["pixel_values"] is None:
            continue
        picture = Image.new("RGB", (40, 36), (20 * number, 90, 30))
        for question, answer in (("Is it red?", "No."), ("What is it?", "A square and a star.")):
            asked = [Message.user(picture, question), Message.assistant(answer)]
            found.append(processor.encode_training(asked) | {"row": len(found)})
    return found


def test_rows_about_a_picture_share_it_and_are_as_if_alone(case: Any) -> None:
    model, processor, samples = case
    samples = asked_again(samples, processor)
    longest = max(len(sample["input_ids"]) for sample in samples)
    rows = Collator(processor.padding_id, max_length=longest * 2, picture_id=processor.image_token_id)
    layout = getattr(model, "lay_out_prompt", None)
    apart = PackingCollator(rows, layout, as_bias=True)(samples)
    shared = PackingCollator(rows, layout, as_bias=True, share_pictures=True)(samples)
    assert len(shared["pixel_values"]) < len(apart["pixel_values"])
    assert shared["input_ids"].numel() < apart["input_ids"].numel()
    assert sorted(shared["rows"].tolist()) == sorted(apart["rows"].tolist())
    compare(model, loss_of(model, rows(samples)), loss_of(model, shared))


def stands_for(ids: list[int], trained: int, colour: float = 0.5) -> dict[str, Any]:
    """A sample whose picture has the ids 9, with labels from `trained` on."""
    labels = [-100] * trained + ids[trained:]
    return {"input_ids": ids, "labels": labels, "pixel_values": torch.full((1, 3, 2, 2), colour)}


def test_only_the_same_picture_after_the_same_words_is_shared() -> None:
    end = Collator(0, picture_id=9).picture_end
    samples = [
        stands_for([1, 9, 9, 5, 6], 4),
        stands_for([1, 9, 9, 5, 7], 4),
        stands_for([2, 9, 9, 5, 7], 4),
        stands_for([1, 9, 9, 5, 7], 4, colour=0.6),
        stands_for([1, 9, 9, 8], 3),
        stands_for([1, 9, 9, 7, 9], 3),
        {"input_ids": [1, 9, 9, 5], "labels": [-100] * 4, "pixel_values": None},
    ]
    found = [(len(bundle.samples), bundle.parts()) for bundle in bundles(samples, end, 100)]
    assert found == [(2, [3, 2, 2]), (1, [5]), (1, [5]), (1, [4]), (1, [5]), (1, [4])]
    assert [bundle.parts() for bundle in bundles(samples[:2] * 2, end, 8)] == [[3, 2, 2], [3, 2, 2]]


def test_a_blank_picture_weighs_nothing_and_reaches_every_part(case: Any) -> None:
    model, processor, samples = case
    texts = [sample for sample in samples if sample["pixel_values"] is None]
    assert texts
    plain = Collator(processor.padding_id)(texts)
    with_blank = Collator(processor.padding_id, blank=blank_sample(processor), always_picture=True)(texts)
    assert "pixel_values" not in plain
    assert len(with_blank["input_ids"]) == len(texts) + 1
    compare(model, loss_of(model, plain), loss_of(model, with_blank), extra=True)
    reached = gradients(model, loss_of(model, with_blank))
    wanted = [
        n
        for n, _ in model.named_parameters()
        if "projector" in n or "_abstractor" in n or "vision_expert" in n
    ]
    assert wanted
    assert reached.keys() >= set(wanted)


def test_gradient_checkpointing_is_switched_on_without_a_word(case: Any) -> None:
    model, processor, samples = case
    batch = Collator(processor.padding_id)(samples)
    plain = gradients(model, loss_of(model, batch))
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        for name, gradient in gradients(model, loss_of(model, batch)).items():
            torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6)
    finally:
        model.activation_checkpointing_disable()


def test_long_rows_are_cut_dropped_or_refused(case: Any) -> None:
    _, processor, samples = case
    longest = max(range(6), key=lambda number: len(samples[number]["input_ids"]))
    length = len(samples[longest]["input_ids"])
    padding = processor.padding_id
    with pytest.raises(InputError, match=f"{length} tokens and max_length is {length - 1}"):
        Collator(padding, max_length=length - 1)(samples)
    slots = processor.image_token_id
    cut = Collator(padding, max_length=length - 1, too_long="cut", picture_id=slots)([samples[longest]])
    assert cut["input_ids"].tolist() == [samples[longest]["input_ids"][: length - 1]]
    kept = Collator(padding, max_length=length - 1, too_long="drop")(samples)
    assert longest not in kept["rows"].tolist()
    with pytest.raises(InputError, match="every sample"):
        Collator(padding, max_length=3, too_long="drop")(samples)
    with pytest.raises(InputError, match="would cut a picture"):
        Collator(padding, max_length=3, too_long="cut", picture_id=slots)([samples[0]])
    as_one = Collator(padding, picture_id=slots, picture_as_one=True)
    assert as_one.length(samples[0]) == length_without(samples[0], slots) + 1


def length_without(sample: dict[str, Any], token: int) -> int:
    return sum(one != token for one in sample["input_ids"])


def test_packing_puts_long_ones_first() -> None:
    assert bins([3, 7, 4, 2, 6], 10) == [[1, 0], [4, 2], [3]]


def test_packing_takes_the_width_that_wastes_least() -> None:
    assert arranged([5, 5, 5, 5], 14) == [[0], [1], [2], [3]]  # of equals the narrowest
    assert arranged([6, 5, 5, 4], 14) == [[0, 3], [1, 2]]
    assert arranged([6, 5, 5, 4], 14, hidden=100) == [[0, 3], [1, 2]]
    assert arranged([6, 5, 5, 4], 14, hidden=2) == [[0], [1], [2], [3]]  # attention costs more than padding
    assert arranged([7], 7) == [[0]]
