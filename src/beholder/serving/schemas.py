"""Requests of the OpenAI API as pydantic models.

An unknown field is refused. A known one that would change the answer and is not supported here is refused
unless it asks for what happens anyway; which values those are stands in `ONLY`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from beholder.serving.errors import unsupported

MOST_STOPS = 4
MOST_TOP_LOGPROBS = 20
LARGEST = 2**31 - 1

# Field -> the values that ask for nothing special, besides null. Those that only label a request are free.
ONLY: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
# The same for the fields of a message: what an answer of ours or OpenAI's has when it is sent back.
ONLY_IN_MESSAGES: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "refusal": (),
    "tool_call_id": (),
    "tool_calls": ([],),
}


def whole_letters(text: str) -> str:
    """JSON can spell half a letter (a lone surrogate); no tokenizer and no answer can hold one."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text has half of a surrogate pair in it") from None
    return text


Text = Annotated[str, AfterValidator(whole_letters)]


class Model(BaseModel):
    """Base of requests: unknown fields are errors, and a text is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


def example(**fields: Any) -> ConfigDict:
    """A request that the OpenAPI page shows; tools that read the page send it."""
    return ConfigDict(json_schema_extra={"examples": [{"model": "beholder-mini", **fields}]})


class ImageURL(Model):
    """Where a picture is. `detail` is accepted for OpenAI's clients; the model's own views decide."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(Model):
    """Words of a message."""

    type: Literal["text"]
    text: Text


class ImagePart(Model):
    """A picture of a message, as an http(s) address or a data URL."""

    type: Literal["image_url"]
    image_url: ImageURL | str

    @property
    def url(self) -> str:
        """The address."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Model):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]
    annotations: list[Any] | None = None
    audio: Any = None
    boxes: list[Any] | None = Field(None, description="Taken back as this server gave them; not read.")
    function_call: Any = None
    name: str | None = None
    refusal: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Any] | None = None

    @model_validator(mode="after")
    def refuse_the_unsupported(self) -> ChatMessage:
        """Nothing that a message says is left out of the prompt."""
        refuse(self, ONLY_IN_MESSAGES, "a message's ")
        return self


class StreamOptions(Model):
    """`include_usage` adds a last chunk with the counts."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class JSONSchema(Model):
    """A schema that the answer must follow."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Model):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None


class SamplingFields(Model):
    """What chat and plain completions share."""

    model: str = Field(description="One of the ids that /v1/models lists.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    ignore_eos: bool | None = Field(
        None, description="Not in OpenAI's API. Goes on after the model's own end, up to max_tokens."
    )
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = Field(None, ge=1, le=LARGEST)
    metadata: dict[str, str] | None = None
    min_p: float | None = Field(None, ge=0, lt=1, description="Not in OpenAI's API.")
    n: int | None = Field(None, ge=1, le=128)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, description="Not in OpenAI's API.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Text | list[Text] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, ge=-1, le=LARGEST, description="Not in OpenAI's API. 0 or -1 is off.")
    top_p: float | None = Field(None, gt=0, le=1)
    user: str | None = None

    @field_validator("stop")
    @classmethod
    def check_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        """At most four, none empty."""
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MOST_STOPS or not all(stops):
            raise ValueError(f"give at most {MOST_STOPS} texts, none of them empty")
        return value

    @model_validator(mode="after")
    def check_stream_options(self) -> SamplingFields:
        """Options of streaming belong to a stream."""
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> dict[str, Any]:
        """The given settings, as the library names them; what is left out keeps the library's default."""
        given: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty or None,
            "frequency_penalty": self.frequency_penalty or None,
            "logit_bias": self._biases() or None,
            "ignore_eos": self.ignore_eos or None,
            "seed": self.seed,
            "stop": self.stops or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _biases(self) -> dict[int, float]:
        biases = self.logit_bias or {}
        if not all(
            token.isascii() and token.isdigit() and -100 <= bias <= 100 for token, bias in biases.items()
        ):
            raise unsupported("logit_bias", "must map token ids to numbers from -100 to 100")
        return {int(token): bias for token, bias in biases.items()}


class ChatRequest(SamplingFields):
    """`POST /v1/chat/completions`."""

    model_config = example(messages=[{"role": "user", "content": "What shape has a wheel?"}], max_tokens=16)

    messages: list[ChatMessage] = Field(min_length=1)
    logprobs: bool | None = None
    max_completion_tokens: int | None = Field(None, ge=1, le=LARGEST)
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    template: str | None = Field(None, description="Not in OpenAI's API. One of the model's templates.")
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)

    audio: Any = None
    function_call: Any = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    reasoning_effort: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    tool_choice: Any = None
    tools: list[Any] | None = None
    verbosity: str | None = None
    web_search_options: Any = None

    @model_validator(mode="after")
    def check_pairs(self) -> ChatRequest:
        """Fields that only make sense together."""
        refuse(self, ONLY)
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed with logprobs")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    def sampling(self) -> dict[str, Any]:
        """With the chat's own name for the limit, and the log-probabilities."""
        given = super().sampling()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        return given


class CompletionRequest(SamplingFields):
    """`POST /v1/completions`: the prompt is run as it is written, without a chat template."""

    model_config = example(prompt="A wheel is", max_tokens=8)

    prompt: Text | Annotated[list[Text], Field(min_length=1)]
    best_of: int | None = Field(None, ge=1)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    suffix: str | None = None

    @model_validator(mode="after")
    def refuse_the_unsupported(self) -> CompletionRequest:
        """What would change the answer and cannot be done."""
        refuse(self, {"best_of": (self.n or 1,), "echo": (False,), "suffix": ("",)})
        return self

    @property
    def prompts(self) -> list[str]:
        """One or several."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def sampling(self) -> dict[str, Any]:
        """With the log-probabilities."""
        given = super().sampling()
        return given if self.logprobs is None else {**given, "logprobs": self.logprobs}


class TokenizeRequest(Model):
    """`POST /tokenize`: a plain text, or a conversation as the model would get it."""

    model_config = example(messages=[{"role": "user", "content": "What shape has a wheel?"}])

    model: str
    prompt: Text | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    template: str | None = Field(None, description="One of the model's templates, for messages.")
    views: bool = Field(False, description="Whether the reply has what the model sees of each picture.")

    @model_validator(mode="after")
    def check_one(self) -> TokenizeRequest:
        """Exactly one of the two."""
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.messages is None and (self.template is not None or self.views):
            raise ValueError("template and views are only allowed with messages")
        return self


def refuse(given: BaseModel, only: dict[str, tuple[Any, ...]], whose: str = "") -> None:
    """Refuse the fields that ask for something which is not done here."""
    for name, harmless in only.items():
        value = getattr(given, name)
        if value is not None and not any(type(value) is type(one) and value == one for one in harmless):
            allowed = " or ".join(repr(one) for one in harmless)
            rest = f"; leave it out or give {allowed}" if harmless else "; leave it out"
            raise unsupported(f"{whose}{name}", f"is not supported{rest}")
