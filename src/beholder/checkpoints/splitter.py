"""What transformers runs to split a stored tensor when it opens a checkpoint."""

from __future__ import annotations

from typing import Any

from transformers.core_model_loading import WeightConverter


class Splitter(WeightConverter):
    """A converter whose every part is quantised where that is wanted.

    transformers' own hands all parts to the quantiser at once, and the quantisers of torchao and bitsandbytes
    take the first and drop the others.
    """

    __slots__ = ()

    def convert(self, layer_name: str, model: Any = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The parts by their full names; what a quantiser has put into the model itself is not among them."""
        quantizer: Any = self.quantization_operation
        convert: Any = super().convert  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self.quantization_operation = None
        try:
            parts: dict[str, Any] = convert(layer_name, model, *args, **kwargs)
        finally:
            self.quantization_operation = quantizer
        if quantizer is None:
            return parts
        info = kwargs.get("loading_info")
        left: dict[str, Any] = {}
        for name, part in parts.items():
            left |= quantizer.convert(
                {name: part},
                source_patterns=self.source_patterns,
                target_patterns=[name],
                full_layer_name=name,
                config=kwargs.get("config"),
                model=model,
                missing_keys=info.missing_keys if info else None,
            )
        return left
