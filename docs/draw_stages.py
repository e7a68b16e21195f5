"""Two published stages against one, and the projector's learning rate varied, on one laboratory subject.

    python docs/draw_stages.py run [--out runs/lab] [--budget full] [--seeds 0 1 2] [--tune-steps 400]
    python docs/draw_stages.py plot [--records benchmarks/results/stages] [--to docs/pictures/stages.svg]

`run` trains and scores what is missing and leaves a record of each run; what is done is left as it is, so a
stopped call can be given again. The two-stage runs first train what is between tower and language model
alone, at each of the learning rates; the one-stage run trains everything from the start, on as many rows as
both stages have. The laboratory's own runs are taken where they are the same: its first stage, and, without
--tune-steps, its second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from beholder.core.records import RunRecord
from beholder.laboratory.budget import BUDGETS, LABORATORY_RATE, Budget, align_recipe, tune_recipe
from beholder.laboratory.experiment import finished, materials, score_run, write_start
from beholder.laboratory.subjects import SUBJECTS
from beholder.laboratory.summary import by_rate

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "results" / "stages"
RATES = (1e-4, 4e-4, 1.2e-3, 4e-3)  # of the first stage; the second's is the recipe's for all
SUBJECT = "mlp"
ONE = "one stage"


def run(out: Path, budget: Budget, seeds: Sequence[int], records: Path) -> None:
    """Every run that has no record yet; records of another budget, or of other steps, are refused."""
    subject, as_long = SUBJECTS[SUBJECT], budget == BUDGETS[budget.name]
    drawn = materials(out, budget, None)
    train = drawn.train
    for seed in seeds:
        start = write_start(subject, out, budget, seed, drawn)
        home = out / f"stages-{budget.tune_steps}-{seed}"
        for rate in (None, *RATES):
            path = records / f"{'one' if rate is None else f'two-{rate:g}'}-{seed}.json"
            if path.is_file():
                _must_be_alike(path, budget)
                continue
            name = path.stem
            if rate is None:
                steps = budget.tune_steps + budget.align_rows // budget.batch
                last = tune_recipe(start, home / name, train, budget, seed, steps=steps)
            else:
                lab = out / f"{SUBJECT}-{seed}"
                align, tune = home / f"{name}-align", home / name
                if rate == LABORATORY_RATE:
                    align, tune = lab / "align", lab / "tune" if as_long else tune
                first = align_recipe(subject, start, align, train, budget, seed, rate)
                last = tune_recipe(finished(first), tune, train, budget, seed)
            told = {"arm": ONE if rate is None else "two stages", "projector_rate": rate, "seed": seed}
            score_run(finished(last), drawn.test, home / f"{name}-worlds", budget, told).write(path)
            sys.stdout.write(f"{path}\n")


def _must_be_alike(path: Path, budget: Budget) -> None:
    told = RunRecord.read(path).settings
    found = (told["budget"], told["align_steps"], told["tune_steps"])
    if found != (wanted := (budget.name, budget.align_steps, budget.tune_steps)):
        raise SystemExit(
            f"{path} is of budget {found[0]} with {found[1]} and {found[2]} steps, asked for are "
            f"{wanted[0]} with {wanted[1]} and {wanted[2]}; give another folder with --records"
        )


def plot(records: Path, to: Path) -> None:
    """One plot: accuracy over the projector's learning rate, and the line of the one-stage runs."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    found = [RunRecord.read(path) for path in sorted(records.glob("*.json"))]
    if not found:
        raise SystemExit(f"no records in {records}; make them with: python docs/draw_stages.py run")
    values = by_rate(found)
    pyplot.rcParams["svg.hashsalt"] = "stages"
    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    rates = sorted(rate for rate in values if rate is not None)
    middles = [statistics.fmean(values[rate]) for rate in rates]
    ends = [
        [middle - min(values[rate]) for middle, rate in zip(middles, rates, strict=True)],
        [max(values[rate]) - middle for middle, rate in zip(middles, rates, strict=True)],
    ]
    axes.errorbar(rates, middles, yerr=ends, marker="o", capsize=3, label="two stages")
    if alone := values.get(None):
        axes.axhspan(min(alone), max(alone), alpha=0.2, color="tab:orange")
        axes.axhline(statistics.fmean(alone), color="tab:orange", label="one stage, as many rows")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate of the projector in the first stage")
    axes.set_ylabel("right answers on unseen scenes, %")
    axes.legend()
    figure.tight_layout()
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, metadata={"Date": None})


def main() -> None:
    """Run or plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "plot"))
    parser.add_argument("--out", type=Path, default=Path("runs/lab"))
    parser.add_argument("--budget", default="full")
    parser.add_argument("--tune-steps", type=int, help="of the last stage; the budget's if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures" / "stages.svg")
    options = parser.parse_args()
    if options.what == "run":
        budget = BUDGETS[options.budget]
        if options.tune_steps is not None:
            budget = replace(budget, tune_steps=options.tune_steps)
        run(options.out, budget, options.seeds, options.records)
    else:
        plot(options.records, options.to)


if __name__ == "__main__":
    main()
