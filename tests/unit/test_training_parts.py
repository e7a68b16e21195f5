"""Recipes, freezing, rows, collation, order and optimizer groups, each alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from beholder.core.errors import ConfigError, InputError, MissingExtraError
from beholder.training.collate import Collator
from beholder.training.data import row_messages, row_pictures, row_texts
from beholder.training.easing import is_plain, rows_of, with_short_answers
from beholder.training.journal import clock
from beholder.training.optimizer import MuonAndAdamW, build_optimizer
from beholder.training.rows import read_rows
from beholder.training.run import open_start
from beholder.training.sampler import LengthGroupedSampler, PictureGroupedSampler
from beholder.training.stages import Recipe, Source, freeze, read_recipe, recipe_names

VALUES: dict[str, Any] = {
    "name": "test/stage",
    "model": "somewhere",
    "output": "out",
    "data": [{"rows": "rows.json", "pictures": "."}],
    "trainable": ["body"],
    "learning_rate": 1e-3,
    "epochs": 1,
    "global_batch": 8,
    "device_batch": 4,
    "max_length": 64,
}


def recipe(**changes: Any) -> Recipe:
    return Recipe(**(VALUES | changes))


def network() -> nn.Module:
    parts = {"body": nn.Linear(4, 4), "embed": nn.Embedding(4, 4), "head": nn.Linear(4, 4)}
    return nn.ModuleDict(parts)


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_is_valid(name: str) -> None:
    assert read_recipe(name).name == name


def test_overrides_reach_inside_and_are_read_as_yaml() -> None:
    read = read_recipe("mini/align", ["steps=7", "data.0.pictures=/p"])
    assert (read.steps, read.data[0].pictures) == (7, Path("/p"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["learning_rat=1"], "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        (["data.0.row=x"], "unknown key 'data.0.row'; did you mean 'rows'"),
        (["steps"], "not key=value"),
        (["epochs=2"], "either epochs or steps"),
        (["learning_rate=-1"], "learning_rate"),
    ],
)
def test_a_wrong_override_is_named(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_recipe("mini/align", overrides)


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="mini/tower"):
        read_recipe("mini/towel")


def test_the_global_batch_is_kept_on_more_processes() -> None:
    def shared(processes: int) -> tuple[int, int]:
        return recipe().rows_at_once(processes), recipe().accumulation(processes)

    assert [shared(processes) for processes in (1, 2, 4, 8)] == [(4, 2), (4, 1), (2, 1), (1, 1)]
    with pytest.raises(ConfigError, match="8 is not a multiple of 2 rows at once x 3 processes"):
        recipe().accumulation(3)
    with pytest.raises(ConfigError, match="8 is not a multiple of 1 rows at once x 16 processes"):
        recipe().accumulation(16)


def test_freezing_trains_the_prefixes_only() -> None:
    model = network()
    freeze(model, recipe())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["body.weight", "body.bias"]


@pytest.mark.parametrize("changes", [{"trainable": ["bodi"]}, {"learning_rates": {"bodi": 1e-4}}])
def test_a_prefix_without_parameters_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"bodi.*body\.bias"):
        freeze(network(), recipe(**changes))


def test_the_longest_prefix_sets_the_rate() -> None:
    rates = recipe(learning_rates={"body": 2e-3, "body.weight": 3e-3})
    model = network()
    groups = build_optimizer(model, rates).param_groups
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert {name: rate_of[id(parameter)] for name, parameter in model.named_parameters()} == {
        "body.weight": 3e-3, "body.bias": 2e-3, "head.weight": 1e-3, "head.bias": 1e-3, "embed.weight": 1e-3,
    }  # fmt: skip


def test_prefixes_of_one_rate_are_groups_of_their_own() -> None:
    """So that the rate of one can be changed, or told, without the other's."""
    alike = recipe(learning_rates={"body": 1e-3, "head": 1e-3})
    assert len(build_optimizer(network(), alike).param_groups) == 3
    assert len(build_optimizer(network(), recipe()).param_groups) == 1


def test_muon_gets_inner_matrices_and_adamw_the_rest() -> None:
    optimizer = build_optimizer(network(), recipe(optimizer="muon", weight_decay=0.1))
    assert isinstance(optimizer, MuonAndAdamW)
    assert [len(group["params"]) for group in optimizer.muon.param_groups] == [
        2
    ]  # body.weight and head.weight
    assert sorted(len(group["params"]) for group in optimizer.adamw.param_groups) == [
        1,
        2,
    ]  # embedding; two biases
    assert {group["weight_decay"] for group in optimizer.adamw.param_groups} == {0.0, 0.1}


def test_the_optimizer_pair_goes_on_from_its_saved_state() -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            model["head"](model["body"](model["embed"](torch.arange(4)))).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    straight = network()
    broken = network()
    broken.load_state_dict(straight.state_dict())
    steps(straight, build_optimizer(straight, recipe(optimizer="muon")), 4)
    first = build_optimizer(broken, recipe(optimizer="muon"))
    steps(broken, first, 2)
    second = build_optimizer(broken, recipe(optimizer="muon"))
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0] is second.muon.param_groups[0]  # type: ignore[attr-defined]
    steps(broken, second, 2)
    for one, other in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(one, other)


def write_rows(folder: Path, rows: Any, name: str = "rows.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows)))
    return path


def test_rows_are_read_from_json_and_jsonl(tmp_path: Path) -> None:
    rows = [{"id": 1, "conversations": []}, {"id": 2, "conversations": []}]
    for name in ("rows.json", "rows.jsonl"):
        read = read_rows(write_rows(tmp_path, rows, name))
        assert [*read] == [read[at] for at in range(len(read))] == read[:] == rows


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_each_row_is_read_from_its_place(
    tmp_path: Path, indent: int | None, ascii_only: bool, mark: str
) -> None:
    """Whatever the letters and blanks before it; and a file that has changed meanwhile is told."""
    rows = [{"id": n, "conversations": [], "said": "ä中\U0001f600 ]},{[" * n} for n in range(5)]
    told = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    (tmp_path / "rows.json").write_text(f"{mark}\n {told} \n", encoding="utf-8")
    read = read_rows(tmp_path / "rows.json")
    assert (read[3], read[-1], read[1:3], [*read]) == (rows[3], rows[4], rows[1:3], rows)
    with pytest.raises(IndexError):
        read[5]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    (tmp_path / "rows.jsonl").write_text(f"{mark}{lines}\r\n", encoding="utf-8")
    assert [*read_rows(tmp_path / "rows.jsonl")] == rows
    with (tmp_path / "rows.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match="has changed since it was opened"):
        read[0]


@pytest.mark.parametrize(
    "content",
    [
        '{"id": 1}', "[1]", "[{}]", "no json", "", '[{"conversations": []} {}]', "[[]] x", "\xff",
        '[{"conversations": []},]', '[{"conversations": null}]', '[{"conversations": ["x"]}]', '["messages"]',
        '[{"conversations": [{"from": "gpt"}]}]', '[{"conversations": [{"value": null}]}]',
        '[{"messages": ["x"]}]', '[{"image": 3, "conversations": []}]',
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_what_are_no_rows_is_said(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    if name == "rows.jsonl" and not content:
        assert len(read_rows(tmp_path / name)) == 0
        return
    with pytest.raises(InputError, match=r"rows\.json"):
        read_rows(tmp_path / name)


def talk(*values: str, image: Any = None) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return {"id": "r", "conversations": turns} | ({"image": image} if image else {})


def test_the_marker_becomes_the_picture_and_its_newline_goes(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    first, last = row_messages(talk("<image>\nWhat?", "A square.", image="a.png"), tmp_path)
    assert (first.text, len(first.pictures), last.text) == ("What?", 1, "A square.")
    (trailing, _) = row_messages(talk("What?\n<image>", "Red.", image=["a.png"]), tmp_path)
    assert (trailing.text, len(trailing.pictures)) == ("What?", 1)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (talk("<image>\nWhat?", "Red."), "more <image> marks than pictures"),
        (talk("What?", "Red.", image="a.png"), "have no <image> mark"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "unknown speaker 'bot'"),
        (
            {"conversations": [{"from": "human", "value": "x"}] * 2},
            "turn 2 is the user's where the assistant's is due",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "turn 1 is the assistant's where the user's"),
    ],
)
def test_rows_whose_marks_and_pictures_disagree(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    with pytest.raises(InputError, match=said):
        row_messages(row, tmp_path)


def test_an_answer_before_the_first_question_is_left_out(tmp_path: Path) -> None:
    """As the original does with rows of ShareGPT; a second one it refuses."""
    turns = [{"from": who, "value": who} for who in ("gpt", "human", "gpt")]
    said = row_messages({"id": "r", "conversations": turns}, tmp_path)
    assert [message.role for message in said] == ["user", "assistant"]
    with pytest.raises(InputError, match="row r: turn 1 is the assistant's"):
        row_messages({"id": "r", "conversations": [turns[0], *turns]}, tmp_path)


def test_a_cut_that_leaves_nothing_to_train_is_shown() -> None:
    sample = {"input_ids": [5, 6, 7], "labels": [-100, -100, 7], "pixel_values": None}
    with pytest.raises(InputError, match=r"has 3 tokens and max_length is 2; .* no trained token: 5 6; "):
        Collator(padding_id=9, max_length=2, too_long="cut")([sample])
    kept = Collator(padding_id=9, max_length=2, too_long="cut")([sample | {"labels": [-100, 6, 7]}])
    assert kept["labels"].tolist() == [[-100, 6]]


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "00:00:00"), (59.6, "00:01:00"), (176709, "49:05:09")])
def test_time_left_goes_on_after_a_day(seconds: float, told: str) -> None:
    assert clock(seconds) == told


def test_a_batch_of_which_every_row_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A blank sample, of which nothing is trained, stands in; where there is none, it is an error."""
    sample = {"input_ids": [5, 6, 7], "labels": [5, 6, 7], "pixel_values": None}
    blank = {"input_ids": [1, 2], "labels": [-100, -100], "pixel_values": torch.zeros(1, 3)}
    limits = Collator(padding_id=9, max_length=2, too_long="drop", blank=blank)
    assert limits([sample])["labels"].tolist() == [[-100, -100]]
    assert "it is left out" in caplog.text
    short = {"input_ids": [5, 6], "labels": [5, 6], "pixel_values": None}
    assert limits([sample, short])["input_ids"].tolist() == [[5, 6]], "it joins nothing by itself"
    with pytest.raises(InputError, match="every sample of a batch is longer"):
        replace(limits, blank=None)([sample])


def test_columns_that_are_empty_are_not_there() -> None:
    """As a table of rows of both forms has them."""
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    for row in ({"messages": None, "conversations": turns}, {"messages": messages, "conversations": None}):
        assert [message.text for message in row_messages(row, Path())] == row_texts(row) == ["Q", "A"]
        assert row_pictures(row) == []


def test_collation_pads_right_and_trains_nothing_there() -> None:
    samples = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "pixel_values": torch.ones(1, 2)},
        {"input_ids": [8], "labels": [8], "pixel_values": None},
    ]
    batch = Collator(padding_id=9, multiple=4)(samples)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100], [8, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["pixel_values"].shape == (1, 2)
    with pytest.raises(InputError, match="3 tokens and max_length is 2"):
        Collator(padding_id=9, max_length=2)(samples)


def test_rows_about_a_picture_follow_each_other() -> None:
    pictures = [("a",), ("b",), (), ("a",), ("a", "b"), (), ("b",), ("a",)]
    sampler = PictureGroupedSampler(pictures, batch=4, seed=1)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(8))
        places = [orders[-1].index(number) for number in (0, 3, 7)]
        assert max(places) - min(places) == 2
        assert abs(orders[-1].index(1) - orders[-1].index(6)) == 1
    assert orders[0] != orders[1]
    again = PictureGroupedSampler(pictures, batch=4, seed=1)
    assert list(again) == orders[0]


def test_grouping_keeps_every_sample_and_batches_alike_ones() -> None:
    lengths = [*range(1, 101), *(-n for n in range(1, 31))]
    sampler = LengthGroupedSampler(lengths, batch=4, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(130))
    batches = [[lengths[i] for i in order[start : start + 4]] for start in range(0, 120, 4)]
    assert all(len({length > 0 for length in batch}) == 1 for batch in batches)
    assert sum(max(map(abs, b)) - min(map(abs, b)) for b in batches) / len(batches) < 10
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beholder.training.run.NEEDED", ("no_such_package_anywhere",))
    with pytest.raises(MissingExtraError, match=r"pip install 'beholder\[train\]'"):
        open_start(recipe())


def test_plain_pictures_are_those_with_few_objects_and_letters() -> None:
    def row(colours: int, letters: int) -> dict[str, Any]:
        shapes = [{"what": "circle", "colour": "red"}] * colours
        return {"id": 1, "objects": [*shapes, *[{"what": "letter A"}] * letters]}

    assert is_plain(row(2, 3), 2, None)
    assert is_plain(row(2, 3), None, 3)
    assert not is_plain(row(3, 0), 2, None)
    assert not is_plain(row(0, 4), 2, 3)
    with pytest.raises(InputError, match="row 7 has no 'objects' list"):
        is_plain({"id": 7}, 1, None)


def test_turns_with_long_answers_go_and_the_marker_stays_in_front(tmp_path: Path) -> None:
    talk = [("<image>\nWhere?", "[[1,2,3,4]]"), ("Colour?", "Red."), ("And now?", "Blue.")]
    turns = [turn for q, a in talk for turn in ({"from": "human", "value": q}, {"from": "gpt", "value": a})]
    short = with_short_answers({"id": 1, "conversations": turns}, 5)
    assert [turn["value"] for turn in short["conversations"]] == [
        "<image>\nColour?", "Red.", "And now?", "Blue.",
    ]  # fmt: skip
    assert turns[2]["value"] == "Colour?"  # the row itself is as it was
    with pytest.raises(InputError, match="row 1 is no list of human and gpt turns in pairs"):
        with_short_answers({"id": 1, "conversations": turns[:3]}, 5)
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"id": 1, "conversations": turns}]))
    with pytest.raises(InputError, match="no row is left"):
        rows_of(Source(rows=rows, pictures=tmp_path, longest_answer=1))


def test_learning_rates_reach_a_model_inside_a_reader() -> None:
    class Reader(nn.Module):
        around = "model."

        def __init__(self) -> None:
            super().__init__()
            self.model, self.heads = network(), nn.Linear(4, 4)

    groups = build_optimizer(Reader(), recipe(learning_rates={"body": 5e-4})).param_groups
    sizes: dict[float, int] = {}
    for group in groups:
        sizes[group["lr"]] = sizes.get(group["lr"], 0) + sum(map(torch.numel, group["params"]))
    assert sizes == {5e-4: 20, 1e-3: 16 + 20 + 20}  # body; embedding, head and the reader's own heads
