"""Training rows as a model reads them, for whoever wants to know what its layers' inputs are like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from beholder.training.collate import Collator
from beholder.training.data import ROW, TrainingProcessor, row_messages
from beholder.training.rows import read_rows


class CalibrationRows(Sequence[dict[str, Any]]):
    """Each row of a file as what a model takes, made when it is asked for; InputError for a wrong one."""

    def __init__(self, path: Path, processor: TrainingProcessor) -> None:
        self._rows, self._pictures, self._processor = read_rows(path), path.parent, processor

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        sample = self._processor.encode_training(row_messages(self._rows[index], self._pictures))
        batch = cast("dict[str, Tensor]", Collator(0)([sample]))
        return {name: value for name, value in batch.items() if name not in ("labels", ROW)}
