"""`beholder data`: draw the worlds that the built-in model is trained and measured on."""

from pathlib import Path


def draw(
    out: Path,
    scenes: int = 1000,
    seed: int = 0,
    split: str = "train",
    fonts: Path | None = None,
    workers: int = 1,
    rounds: int = 8,
    start: int = 0,
) -> None:
    """Draw scenes and their conversations into OUT, in LLaVA's format; a stopped run can go on."""
    import sys
    import time

    from beholder.core.errors import ConfigError
    from beholder.mini.dataset import Plan, write
    from beholder.mini.fonts import FontBook

    if fonts is not None and not fonts.is_dir():
        raise ConfigError(f"no such folder of fonts: {fonts}")
    plan = Plan(scenes=scenes, seed=seed, split=split, start=start, rounds=rounds)  # type: ignore[arg-type]
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
