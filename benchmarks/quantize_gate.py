"""What 8 and 4 bits of our own cost the built-in model, and what HQQ's do.

    python benchmarks/quantize_gate.py [--prompts 60] [--rows 128] [--scenes 400]
        [--only NAME ...] [--out FILE]

Pictures and questions are drawn: what the gate asks about are scenes that no model was trained on, what
calibrates are others. The dense model answers greedily in float32, and each way's weights are scored on
every token of its answers, in float32 too; so divergence and equal tokens are of the weights alone. The
score of `worlds` is of models as they are run: int8 and int4 decode natively, with the inputs of products
in 8 bits. HQQ (`hqq`, in no environment of ours) has a scale and a zero point of 16 bits for each group
where ours has a scale: at as many bits its groups are twice as large. The head is our int8 in all of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import beholder
from beholder.checkpoints.calibrated import calibrated
from beholder.checkpoints.loader import open_model
from beholder.checkpoints.narrow import Choice, narrow_linears
from beholder.checkpoints.quantize import measure
from beholder.checkpoints.writer import convert
from beholder.core.narrow import Narrow, dequantize, quantize
from beholder.core.records import capture, hash_weights
from beholder.core.types import Message
from beholder.evaluation.batches import answer_batch
from beholder.evaluation.cards import flatten
from beholder.evaluation.task import open_row_picture
from beholder.evaluation.tasks.worlds import WORLDS
from beholder.families import identify_folder
from beholder.mini import FOLDER
from beholder.mini.dataset import Plan, write
from beholder.mini.fonts import FontBook
from beholder.processing.images import open_picture
from beholder.training.calibration import CalibrationRows

HERE = Path(__file__).resolve().parent
LENGTH = 24  # tokens of each answer
ROWS = 256  # of `worlds` that are asked at once
LEARNED = 7  # seed of what calibrates
ASKED = 11  # seed of what the gate asks
Weights = dict[str, Tensor]
Way = Callable[[Any, Mapping[str, bool], Sequence[Mapping[str, Any]]], Weights]


def rounded(form: Narrow) -> Way:
    """Ours, by the search for the scale."""

    def way(model: Any, linears: Mapping[str, bool], _: Sequence[Mapping[str, Any]]) -> Weights:
        return {
            name: there_and_back(weight_of(model, name), Narrow("int8") if is_head else form)
            for name, is_head in linears.items()
        }

    return way


def fitted(group: int) -> Way:
    """Ours, calibrated."""

    def way(model: Any, linears: Mapping[str, bool], samples: Sequence[Mapping[str, Any]]) -> Weights:
        calibrated(model, samples, Choice("int4", group))  # leaves in the model what the codes stand for
        heads = {name for name, is_head in linears.items() if is_head}
        return {
            name: there_and_back(weight_of(model, name), Narrow("int8")) if name in heads
            else weight_of(model, name)
            for name in linears
        }  # fmt: skip

    return way


def half_quadratic(group: int) -> Way:
    """HQQ's, in groups of a row with a zero point each."""
    from hqq.core.quantize import Quantizer  # pyright: ignore[reportMissingImports]

    def way(model: Any, linears: Mapping[str, bool], _: Sequence[Mapping[str, Any]]) -> Weights:
        made = Weights()
        for name, is_head in linears.items():
            weight = weight_of(model, name)
            if is_head:
                made[name] = there_and_back(weight, Narrow("int8"))
                continue
            codes, told = Quantizer.quantize(
                weight, nbits=4, group_size=group, optimize=True, axis=1, device="cpu",
                compute_dtype=torch.float32,
            )  # fmt: skip
            made[name] = Quantizer.dequantize(codes, told).float().view(weight.shape)
        return made

    return way


def ways() -> dict[str, Way]:
    """All by name."""
    found = {"int8": rounded(Narrow("int8"))}
    found |= {f"int4_{group}": rounded(Narrow("int4", group)) for group in (32, 64, 128)}
    found |= {f"int4_{group}_calibrated": fitted(group) for group in (64, 128)}
    if find_spec("hqq"):
        found |= {f"hqq_{group}": half_quadratic(group) for group in (64, 128)}
    return found


def weight_of(model: Any, name: str) -> Tensor:
    """A copy of a linear's weight."""
    return model.get_submodule(name).weight.detach().clone()


def there_and_back(weight: Tensor, form: Narrow) -> Tensor:
    """What a matrix's codes and scales stand for."""
    return dequantize(*quantize(weight, form), form, weight.shape[1])


def put(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Exchange linears' weights."""
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_submodule(name).weight.copy_(weight)


def drawn(folder: Path, options: argparse.Namespace, processor: Any) -> tuple[list[Any], list[Any]]:
    """Prompts that the gate asks, and samples that calibrate."""
    asked, learned = folder / "asked", folder / "learned"
    write(asked, Plan(scenes=options.prompts, seed=ASKED, split="validation"), FontBook())
    write(learned, Plan(scenes=options.rows, seed=LEARNED, split="train", rounds=4), FontBook())
    questions: dict[str, Any] = {}
    for number, row in enumerate(json.loads((asked / "questions.json").read_text("utf-8"))):
        if row["image"] not in questions or number % 3 == 0:  # one of each picture, of all kinds
            questions[row["image"]] = row
    prompts = [
        dict(processor.encode([Message.user(open_picture(asked / row["image"]), row["question"])]))
        for row in questions.values()
    ]
    return prompts, list(CalibrationRows(learned / "conversations.json", processor))


def costs(
    prompts: Sequence[Any], samples: Sequence[Any], only: Sequence[str]
) -> tuple[dict[str, float], int]:
    """Divergence and equal tokens of each way, and over how many places."""
    family = identify_folder(FOLDER)
    dense, other = (open_model(FOLDER, family, device="cpu", dtype="float32") for _ in range(2))
    linears, values, places = narrow_linears(dense), dict[str, float](), 0
    kept = {name: weight_of(dense, name) for name in linears}
    for name, way in ways().items():
        if only and name not in only:
            continue
        put(other, kept)
        begun = time.perf_counter()
        weights = way(other, linears, samples)
        values[f"{name}_seconds"] = time.perf_counter() - begun
        put(other, weights)
        cost = measure(dense, other, prompts, length=LENGTH)
        values[f"{name}_divergence"], values[f"{name}_agreement"] = cost.mean_divergence, cost.agreement
        values[f"{name}_worst"], places = cost.worst_divergence, cost.places
        print(f"{name:>20} {cost.mean_divergence:.6f} {cost.agreement:.4f}", flush=True)
    return values, places


def written(folder: Path, samples: Sequence[Any]) -> Path:
    """The built-in model in calibrated int4."""
    family, choice = identify_folder(FOLDER), Choice("int4")
    fitted = calibrated(open_model(FOLDER, family, device="cpu"), samples, choice)
    return convert(FOLDER, folder, family, "ours", quantize=choice, fitted=fitted).target


def worlds(folder: Path, scenes: int, narrow: Path) -> dict[str, float]:
    """The score of the dense model and of narrow ones as they are run; `narrow` is one that is so already."""
    write(folder, Plan(scenes=scenes, seed=1, split="test"), FontBook())
    rows, values = WORLDS.load(folder), dict[str, float]()
    opened = {"dense": (None, None), "int8": (None, "int8"), "int4": (None, "int4")}
    for name, (source, form) in {**opened, "int4_calibrated": (narrow, None)}.items():
        vlm = beholder.load(source, device="cpu", dtype="float32", quantize=form)
        said: list[Any] = []
        for start in range(0, len(rows), ROWS):
            turn = rows[start : start + ROWS]
            shown = {image: open_row_picture(folder, image) for image in {row["image"] for row in turn}}
            talks = [WORLDS.conversation(row, shown[row["image"]]) for row in turn]
            said += answer_batch(vlm, talks, WORLDS.max_tokens)
        vlm.close()
        scores = [WORLDS.score(reply, row) for reply, row in zip(said, rows, strict=True)]
        card = flatten(WORLDS.summarize(scores))
        values |= {f"{name}_worlds{part}": card[f"overall{part}"] for part in ("", ".low", ".high")}
        print(f"{name:>20} {card['overall']:.4f} of {len(rows)}", flush=True)
    return values | {"worlds_rows": float(len(rows))}


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=60, help="pictures that the gate asks about")
    parser.add_argument("--rows", type=int, default=128, help="conversations that calibrate")
    parser.add_argument("--scenes", type=int, default=400, help="of `worlds`; with 0 it is not scored")
    parser.add_argument("--only", nargs="+", help="these ways alone")
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"quantize-gate-{date.today()}.json")
    options = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="beholder-gate-") as folder:
        place, processor = Path(folder), identify_folder(FOLDER).processor_class().from_pretrained(FOLDER)
        prompts, samples = drawn(place, options, processor)
        values, places = costs(prompts, samples, options.only or ())
        if options.scenes:
            values |= worlds(place / "worlds", options.scenes, written(place / "narrow", samples))
    told = {name: getattr(options, name) for name in ("prompts", "rows", "scenes")}
    record = capture(
        subject="beholder-mini", weights=hash_weights(FOLDER), measure="quantize gate", values=values,
        samples=places, settings={**told, "length": LENGTH, "dtype": "float32", "sampling": "greedy"},
        seconds=time.perf_counter() - begun,
    )  # fmt: skip
    print(record.write(options.out))


if __name__ == "__main__":
    main()
