"""`beholder data`: draw worlds and captchas; split a folder; check a recipe's rows and show one of them."""

from pathlib import Path
from typing import Annotated, Any, cast

from typer import Argument, Exit, Option

NOT_HELD = 3


def draw(
    out: Annotated[
        Path, Argument(help="A new folder: pictures in images/, questions and answers in conversations.json.")
    ],
    scenes: Annotated[int, Option(help="How many pictures.")] = 1000,
    seed: Annotated[int, Option(help="Another number draws other pictures; the same draws the same.")] = 0,
    split: Annotated[
        str,
        Option(help="train, validation or test, which share no scene; the last two write questions.json."),
    ] = "train",
    fonts: Annotated[
        Path | None, Option(help="Typefaces beside Pillow's own: a folder of font files.", show_default=False)
    ] = None,
    workers: Annotated[int, Option(help="Processes that draw.")] = 1,
    rounds: Annotated[int, Option(help="The most questions about a picture.")] = 8,
    start: Annotated[int, Option(help="The number of the first picture, to draw a set in parts.")] = 0,
    crowded: Annotated[
        bool, Option(help="Sheets full of things and words, without questions: for a tower's warm-up.")
    ] = False,
    described: Annotated[
        bool, Option(help="Only descriptions with boxes: for a language model's warm-up.")
    ] = False,
    language: Annotated[
        str | None, Option(help="en or zh: ask in this one alone.", show_default="both")
    ] = None,
) -> None:
    """Draw scenes and their conversations into OUT, in LLaVA's format; a stopped run can go on."""
    import sys
    import time

    from beholder.core.errors import ConfigError
    from beholder.mini.dataset import Plan, write
    from beholder.mini.fonts import FontBook

    if fonts is not None and not fonts.is_dir():
        raise ConfigError(f"no such folder of fonts: {fonts}")
    plan = Plan(
        scenes=scenes, seed=seed, split=split, start=start, rounds=rounds, crowded=crowded,  # type: ignore[arg-type]
        described=described, language=language,  # type: ignore[arg-type]
    )  # fmt: skip
    began, drawn = time.monotonic(), 0

    def tell(more: int) -> None:
        nonlocal drawn
        drawn += more
        rate = drawn / (time.monotonic() - began)
        print(f"{drawn} of {scenes} scenes, {rate:.0f} per second", file=sys.stderr)

    manifest = write(out, plan, FontBook.scan(fonts), workers, tell)
    print(
        f"{out}: {manifest['counts']['conversations']} pictures, {manifest['counts']['questions']} questions"
    )


def captchas(
    out: Annotated[Path, Argument(help="A new folder; each picture's name begins with what is written.")],
    pictures: Annotated[int, Option(min=1, help="How many.")] = 10_000,
    hand: Annotated[
        str, Option(help="captcha; or, to learn reading from, plain, crowded or heavy lettering.")
    ] = "captcha",
    seed: Annotated[int, Option(help="Another number draws other pictures; the same draws the same.")] = 0,
    fonts: Annotated[
        Path | None, Option(help="Typefaces beside Pillow's own: a folder of font files.", show_default=False)
    ] = None,
    workers: Annotated[int, Option(min=1, help="Processes that draw.")] = 1,
    other: Annotated[
        bool, Option("--other", help="Drawn by the package `captcha` instead, as it comes; to test on.")
    ] = False,
) -> None:
    """Draw captchas into OUT, as in the example of CogVLM's document; a stopped run can go on."""
    import sys

    from beholder.core.errors import ConfigError
    from beholder.training.captcha.dataset import write, write_other

    if other:
        if fonts is not None or hand != "captcha":
            raise ConfigError(
                "--other draws with its own typeface and in its own way; leave fonts and hand out"
            )
        drawing = write_other(out, pictures, seed=seed)
    else:
        drawing = write(out, pictures, hand=hand, seed=seed, fonts=fonts, workers=workers)
    for done in drawing:
        if done % 1000 == 0:
            print(f"{done} of {pictures} pictures", file=sys.stderr)
    print(f"{out}: {pictures} pictures")


def split(
    archive: Annotated[Path, Argument(help="A folder of pictures, which are moved.")],
    out: Annotated[Path, Argument(help="A new folder for train, valid and test.")],
) -> None:
    """Move a folder's pictures to train, valid and test, 80 to 5 to 15, as CogVLM does; it can be stopped."""
    from beholder.training.captcha.dataset import split

    counts = split(archive, out)
    print(f"{out}: " + ", ".join(f"{count} for {part}" for part, count in counts.items()))


def check(
    recipe: Annotated[str, Argument(help="A packaged recipe (family/stage) or a YAML file.")],
    overrides: Annotated[list[str] | None, Argument(help="Settings to change, as key=value.")] = None,
    tokens: Annotated[
        bool, Option(help="Count tokens too, which needs the files of the recipe's model.")
    ] = True,
) -> None:
    """Decode every picture and read every row of a recipe; exits with 3 if a row cannot be trained on."""
    from beholder.training.checking import MANIFEST, check, write_manifest
    from beholder.training.feeding import limits_for
    from beholder.training.sources import sources_of
    from beholder.training.stages import read_recipe

    resolved = read_recipe(recipe, overrides or [])
    sources = sources_of(resolved)
    processor = _processor(resolved) if tokens else None
    report = check(sources, processor, limits_for(resolved, processor) if processor else None)
    print(report.told())
    resolved.output.mkdir(parents=True, exist_ok=True)
    write_manifest(sources, report, resolved.output / MANIFEST, resolved.limits())
    if not report.holds:
        raise Exit(NOT_HELD)


def show(
    recipe: Annotated[str, Argument(help="A packaged recipe (family/stage) or a YAML file.")],
    row: Annotated[str, Argument(help="Its id, or its number from 0.")],
    overrides: Annotated[list[str] | None, Argument(help="Settings to change, as key=value.")] = None,
) -> None:
    """Print a row's tokens as they are trained: trained ones stand in brackets."""
    from beholder.core.errors import InputError
    from beholder.training.checking import show
    from beholder.training.data import Conversations, row_name
    from beholder.training.sources import sources_of
    from beholder.training.stages import read_recipe

    resolved = read_recipe(recipe, overrides or [])
    processor = _processor(resolved)
    rows = Conversations(sources_of(resolved), processor)
    found = next((pair for pair in rows.rows() if row_name(pair[0]) == row), None)
    if found is None and row.isdigit() and int(row) < len(rows):
        found = rows.row(int(row))
    if found is None:
        raise InputError(f"there is no row {row!r}; the recipe has {len(rows)} rows, numbered from 0")
    print(show(*found, processor))


def _processor(recipe: Any) -> Any:
    """The processor of the recipe's model, set as the recipe says."""
    from beholder import families
    from beholder.api import checkpoint_folder
    from beholder.training.feeding import prepared

    folder = checkpoint_folder(recipe.model)
    processor_class = cast("Any", families.identify_folder(folder).processor_class())
    return prepared(processor_class.from_pretrained(folder), recipe)
