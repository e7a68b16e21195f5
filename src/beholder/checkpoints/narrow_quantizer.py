"""transformers' side of the narrow form: opens folders in it, and makes dense ones narrow, matrix by matrix.

Imported before a model is opened; from then on `from_pretrained` knows the method by its name in config.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from transformers.core_model_loading import ConversionOps
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from beholder.checkpoints.narrow import (
    METHOD,
    WEIGHT,
    Choice,
    choice_of,
    make_narrow,
    narrow_linears,
    put,
)
from beholder.core.errors import BeholderError
from beholder.core.narrow_linear import NarrowLinear

if TYPE_CHECKING:
    import torch


class NarrowConfig(QuantizationConfigMixin):
    """`Choice` as transformers wants it."""

    def __init__(self, quant_method: str = METHOD, **settings: Any) -> None:
        self.quant_method = cast("Any", quant_method)
        self.choice = choice_of(settings)
        self.failure: BeholderError | None = None  # why a matrix could not be made narrow

    def to_dict(self) -> dict[str, Any]:
        """What stands in config.json."""
        return self.choice.to_dict()


class NarrowQuantizer(HfQuantizer):
    """Puts narrow linears into a model without weights, or in a dense one's place as its weights are read."""

    pre_quantized: bool

    def __init__(self, quantization_config: NarrowConfig, **kwargs: Any) -> None:
        cast("Any", super()).__init__(quantization_config, **kwargs)
        self.settings = quantization_config
        self.linears: dict[str, bool] = {}

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        self.linears = narrow_linears(model)
        if self.pre_quantized:
            make_narrow(model, self.settings.choice)
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for module in model.modules():
            if isinstance(module, NarrowLinear):
                module.scales.requires_grad_(False)  # transformers lets all floats be trained
        return model

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        """Whether a stored tensor is a weight that must be made narrow."""
        return not self.pre_quantized and param_name.removesuffix(WEIGHT) in self.linears

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """The parameter's own: codes and scales have theirs already."""
        return dtype

    def get_quantize_ops(self) -> ConversionOps:
        """What makes a weight narrow."""
        return MakeNarrow(self)

    def is_serializable(self) -> Any:
        """Saved, it is a folder that opens again."""
        return True

    @property
    def is_trainable(self) -> Any:
        """Codes have no gradient."""
        return False


class MakeNarrow(ConversionOps):
    """One dense weight, read a moment ago, to a narrow linear in its layer's place."""

    def __init__(self, quantizer: NarrowQuantizer) -> None:
        self._quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str] | None = None,
        target_patterns: list[str] | None = None,
        *,
        full_layer_name: str = "",
        model: Any = None,
        missing_keys: set[str] | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Nothing is left to be put into the model."""
        (given,) = input_dict.values()
        value = cast("list[Any]", given)[0] if isinstance(given, list) else given
        name = full_layer_name.removesuffix(WEIGHT)
        choice = self._quantizer.settings.choice
        narrow = choice.narrow(is_head=self._quantizer.linears[name])
        try:
            made = NarrowLinear.of(model.get_submodule(name), narrow, value)
        except BeholderError as error:
            self._quantizer.settings.failure = type(error)(f"{full_layer_name}: {error}")
            raise
        for part in (made, made.codes, made.scales):
            cast("Any", part)._is_hf_initialized = True
        put(model, name, made)
        if missing_keys is not None:
            missing_keys.discard(full_layer_name)
        return {}


def register() -> None:
    """Make transformers know the method; once is enough."""
    theirs: Any = auto
    if METHOD not in theirs.AUTO_QUANTIZATION_CONFIG_MAPPING:
        theirs.register_quantization_config(METHOD)(NarrowConfig)
    if METHOD not in theirs.AUTO_QUANTIZER_MAPPING:
        theirs.register_quantizer(METHOD)(NarrowQuantizer)


register()


def settings_of(choice: Choice) -> NarrowConfig:
    """What `from_pretrained` takes as `quantization_config`."""
    return NarrowConfig(**{name: value for name, value in choice.to_dict().items() if name != "quant_method"})
