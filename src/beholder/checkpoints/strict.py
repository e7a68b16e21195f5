"""`from_pretrained` that opens the published layout too and never leaves a parameter random.

transformers reports missing and unexpected tensors in its log and goes on. Here they are an error with the
names.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

from beholder.checkpoints.keys import KeyTable
from beholder.checkpoints.splits import register
from beholder.core.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from beholder.checkpoints.planning import Plan
    from beholder.checkpoints.reader import Contents

SHOWN = 3  # how many names of each kind an error lists
REPORT = "LOAD REPORT"


class StrictLoading:
    """Mixin for a `PreTrainedModel`: reads tensors under either layout's names and accounts for every one."""

    published_keys: ClassVar[KeyTable]
    # Beginnings of our parameter names: a part that a checkpoint leaves out wholly is filled by
    # `fill_missing`.
    parts_from_base: ClassVar[tuple[str, ...]] = ()
    # Also of a model that was made and not opened: transformers would save it under published names.
    _weight_conversions: ClassVar[list[Any]] = []

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Self | Any:
        """As in transformers, but a `CheckpointError` unless checkpoint and model fit."""
        from beholder.checkpoints import narrow_quantizer  # transformers knows its name from then on

        narrow_quantizer.register()
        wants_info = kwargs.pop("output_loading_info", False)
        accepts_other_shapes = kwargs.get("ignore_mismatched_sizes", False)
        kwargs["ignore_mismatched_sizes"] = True  # or transformers raises before the names can be told
        if cls.published_keys.splits:
            register(cls, cls.published_keys.splits)
        kwargs["key_mapping"] = cls.published_keys.renamings() | (kwargs.get("key_mapping") or {})
        with without_report():
            transformers_class = cast("Any", super())
            loaded = transformers_class.from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        model, info = cast("tuple[Any, dict[str, Any]]", loaded)
        # transformers would turn the names back when it saves; what it saves is our configuration and our
        # names.
        model._weight_conversions = []
        info["missing_keys"] = set(info["missing_keys"]) - model.fill_missing(set(info["missing_keys"]))
        mismatched = () if accepts_other_shapes else info["mismatched_keys"]
        _confirm(pretrained_model_name_or_path, type(model).__name__, info, mismatched)
        return (model, info) if wants_info else model

    @classmethod
    def from_checked(cls, folder: Path, wanted: Plan, contents: Contents, *args: Any, **kwargs: Any) -> Any:
        """`from_pretrained` of a folder that `loader.check` has found to fit `wanted`: here transformers
        reads the files itself."""
        return cls.from_pretrained(folder, *args, **kwargs)

    def fill_missing(self, missing: set[str]) -> set[str]:
        """Fill parameters that the checkpoint leaves out by design; returns the names of the filled."""
        return set()


def _confirm(
    source: Any, model: str, info: dict[str, Any], mismatched: Iterable[tuple[str, Any, Any]]
) -> None:
    shapes = [f"{name} is {list(have)} and must be {list(want)}" for name, have, want in sorted(mismatched)]
    kinds = (
        ("missing", sorted(info["missing_keys"])),
        ("unknown", sorted(info["unexpected_keys"])),
        ("of another shape", shapes),
    )
    problems = [
        f"{len(names)} tensors {kind}: {'; '.join(names[:SHOWN])}{'; ...' if len(names) > SHOWN else ''}"
        for kind, names in kinds
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit {model}: " + ", ".join(problems))


@contextmanager
def without_report() -> Generator[None]:
    """The error says all of it; a table of the same names in the log would only hide it."""

    def keep(record: logging.LogRecord) -> bool:
        return REPORT not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
