"""MME: two yes/no questions about each picture, scored by single answers and by pairs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from beholder.core.errors import InputError
from beholder.evaluation.bootstrap import Array, figure
from beholder.evaluation.files import Said
from beholder.evaluation.hub import unpack
from beholder.evaluation.intervals import Interval
from beholder.evaluation.metrics.yes_no import first_line, first_word, mme_points, mme_reading, scores_of
from beholder.evaluation.pairing import by_answer
from beholder.evaluation.prompts import COGVLM_SHORT, LOADER_TOKENS, SHORT, SHORT_ANSWER, as_yes_or_no
from beholder.evaluation.published import qihoo, zoo
from beholder.evaluation.task import Pair, Reply, Row, Scores, Style, Task

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
ASKS = "Please answer yes or no."


RELEASE = "MME_Benchmark_release_version"


def fetch(data: Path) -> None:
    """The release, from where its authors' README sends everybody."""
    unpack("darkyarding/MME", f"{RELEASE}.zip", data / RELEASE)


def rows(path: Path) -> list[Row]:
    """The release's folders: question and truth in a text file for each picture."""
    return [row for category in (*PERCEPTION, *COGNITION) for row in _category_rows(path, category)]


def _category_rows(release: Path, category: str) -> Iterator[Row]:
    folder, seen = release / category, Counter[str]()
    texts = folder / "questions_answers_YN"
    for file in sorted((texts if texts.is_dir() else folder).glob("*.txt")):
        pictures = folder / "images" if texts.is_dir() else folder
        picture = next((p for p in sorted(pictures.glob(f"{file.stem}.*")) if p.suffix != ".txt"), None)
        # Not splitlines(): a question may hold other characters that it breaks at.
        for line in filter(str.strip, file.read_text(encoding="utf-8-sig").split("\n")):
            question, tab, truth = line.partition("\t")
            if not tab or ASKS not in question:
                raise InputError(f"{file}: {line!r} is no question with {ASKS!r}, a tab and a truth")
            bare = question.replace(ASKS, "").strip()
            key = f"{category}/{file.stem}|{bare}"
            seen[key] += 1
            yield {
                "id": key if seen[key] == 1 else f"{key}#{seen[key]}",  # the same question may be asked twice
                "key": key,
                "image": f"{release.name}/{picture.relative_to(release)}"
                if picture
                else f"{category}/{file.stem}",
                "question": bare,
                "full_question": question,
                "file": file.name,
                "category": category,
                "truth": truth.strip(),
            }


def key_of(said: Said) -> str:
    """Category and picture from the id, the question from the prompt without its ending."""
    category, name = said.id.split("/")[0], said.id.split("/")[-1].split(".")[0]
    bare = said.prompt.replace(SHORT.strip(), "").replace(ASKS, "").strip()
    return f"{category}/{name}|{bare}"


def score(reply: Reply, row: Row) -> Scores:
    """The answer as the calculator reads it; one with a tab breaks its line, which is left out."""
    told = _told(mme_reading(reply.text), row)
    return {**told, "is_dropped": True} if "\t" in first_line(reply.text) else told


def strict(reply: Reply, row: Row) -> Scores:
    """The first word decides."""
    return _told(first_word(reply.text), row)


def _told(said: str, row: Row) -> Scores:
    picture = f"{row['category']}/{row['file']}"
    return scores_of(said, row["truth"].lower(), category=row["category"], picture=picture)  # type: ignore[arg-type]


def summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """The calculator's points: two answers of a category that follow each other are a picture's pair."""
    kept = [one for one in scores if not one.get("is_dropped")]
    pairs: list[Sequence[Scores]] = []
    for name in (*PERCEPTION, *COGNITION):
        told = [one for one in kept if one["category"] == name]
        pairs += [told[start : start + 2] for start in range(0, len(told), 2)]
    return _figures(kept, pairs)


def strict_summary(scores: Sequence[Scores]) -> dict[str, Interval]:
    """The same where answers about one picture belong together wherever they stand, and all count."""
    pictures: dict[str, list[Scores]] = defaultdict(list)
    for one in scores:
        pictures[one["picture"]].append(one)
    return _figures(scores, list(pictures.values()))


def _figures(scores: Sequence[Scores], pairs: Sequence[Sequence[Scores]]) -> dict[str, Interval]:
    """Points of every category, and their sums over perception, cognition and both."""
    categories = [name for name in (*PERCEPTION, *COGNITION) if any(s["category"] == name for s in scores)]
    table = [_sums(of_one, categories) for of_one in pairs]

    def total(chosen: Sequence[str]) -> Interval:
        places = [categories.index(name) for name in chosen]

        def points(sums: Array) -> Array:
            return sum((mme_points(sums[..., 4 * i : 4 * i + 4]) for i in places), sums[..., 0] * 0)

        return figure(table, points, sum(s["category"] in chosen for s in scores))

    groups = {"perception": PERCEPTION, "cognition": COGNITION}
    chosen = {name: [one for one in group if one in categories] for name, group in groups.items()}
    figures = {name: total(group) for name, group in chosen.items() if group}
    return figures | {"total": total(categories)} | {name: total([name]) for name in categories}


def _sums(answers: Sequence[Scores], categories: Sequence[str]) -> list[float]:
    row = [0.0] * 4 * len(categories)
    start = 4 * categories.index(answers[0]["category"])
    right = sum(one["right"] for one in answers)
    # A pair is right if both are; one answer by itself, as a limit may leave, is no pair that is right.
    row[start : start + 4] = right, len(answers), right == len(answers) > 1, 1
    return row


def converted(pairs: Sequence[Pair], category: str) -> str:
    """The text file of one category that the release's calculator reads: file, question, truth, answer."""
    chosen = ((row, reply) for row, reply in pairs if row["category"] == category)
    return "".join(
        f"{row['file']}\t{row['full_question']}\t{row['truth']}\t{reply.text}\n" for row, reply in chosen
    )


def all_converted(pairs: Sequence[Pair], data: Path) -> dict[str, bytes]:
    """The text files of all categories, as the calculator expects them in one folder."""
    names = dict.fromkeys(row["category"] for row, _ in pairs)
    return {f"mme/{name}.txt": converted(pairs, name).encode() for name in names}


MME = Task(
    name="mme",
    version=2,
    protocol="LLaVA model_vqa_loader + convert_answer_to_mme @ c121f04, calculator of the MME release",
    source=RELEASE,
    rows=rows,
    score=score,
    strict=strict,
    quirks={
        "four-characters": "only the first four characters of the first line are searched, for yes, then no",
        "pairs-by-order": "two answers of a category that follow each other count as one picture's",
        "tabs-drop": "an answer with a tab is left out, and those behind it pair otherwise",
    },
    summary=summary,
    strict_summary=strict_summary,
    prompt=SHORT_ANSWER,
    max_tokens=LOADER_TOKENS,
    styles=COGVLM_SHORT | {"qh360vl": Style(prompt=as_yes_or_no, max_tokens=1280)},
    pair=by_answer(key_of, row_key=lambda row: row["key"]),
    headline="perception",
    points=("*",),
    submit=all_converted,
    published=(
        zoo(1510.7, 1531.3, 1525.1, 1546.9, 1579.0, tolerance=15),
        qihoo(1899.1, 1983.2, figure="total", tolerance=15),
    ),
    fetch=fetch,
)
