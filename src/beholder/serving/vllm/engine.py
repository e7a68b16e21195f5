"""An engine that has its language model in a vLLM server, with the face of `generation.Engine`.

Our processor makes the ids, our tower sees the pictures, and the prompt goes to vLLM as embeddings; token ids
come back. So prompts, pixels, stop texts and boxes are those of every other way to run the model.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import httpx
import torch
from torch import Tensor, nn

from beholder.core.errors import BeholderError, CapacityError, InputError
from beholder.core.types import FinishReason, Sampling, TokenScore
from beholder.generation.features import Embedder, FeatureCache
from beholder.generation.packed import PackedWeights
from beholder.generation.prompt import read_prompt
from beholder.generation.request import Request
from beholder.generation.sampling import TokenMask
from beholder.serving.vllm.marks import with_marks

TIMEOUT = httpx.Timeout(15.0, read=900.0)
ID_MARK = "token_id:"


class VLLMEngine:
    """Brings requests to the vLLM server at `address`, which knows the language model as `served`."""

    def __init__(
        self,
        model: Any,
        *,
        address: str,
        served: str,
        is_alive: Callable[[], bool] = lambda: True,
        picture_memory: int = 256 * 2**20,
        **_: Any,
    ) -> None:
        self.model = model
        self.address, self.served = address.rstrip("/"), served
        self._is_alive = is_alive
        forget_language_model(model)
        self._embedder = Embedder(model, FeatureCache(picture_memory), PackedWeights(model, 0))
        self._seeing = threading.Lock()
        self._client = httpx.Client(base_url=self.address, timeout=TIMEOUT, trust_env=False)
        self._numbers = iter(range(1, 2**62))

    @property
    def is_alive(self) -> bool:
        """Whether the server's process is still there; once it is not, no answer will come any more."""
        return self._is_alive()

    def start(self) -> None:
        """Nothing: each request has a thread of its own from the beginning."""

    def close(self) -> None:
        """End the connections, and with them what is running."""
        self._client.close()

    def submit(
        self,
        inputs: Mapping[str, Any],
        sampling: Sampling,
        terminators: Iterable[int] = (),
        mask: TokenMask | None = None,
    ) -> Request:
        """See `Engine.submit`. A `mask` cannot travel, so an answer cannot be held to JSON here."""
        if mask is not None:
            raise InputError("with the vLLM engine an answer cannot be held to a format; leave it out")
        if sampling.repetition_penalty != 1:
            raise InputError(
                "with the vLLM engine repetition_penalty cannot look at the prompt, whose ids do not travel; "
                "use presence_penalty or frequency_penalty"
            )
        ends = sampling.ends(terminators)
        answer = _Answer(next(self._numbers))
        start = time.perf_counter()
        embeddings = self._embed(inputs)
        answer.request.clock.tower = time.perf_counter() - start
        body = request_body(self.served, embeddings, sampling, ends)
        threading.Thread(target=answer.run, args=(self._client, body), daemon=True).start()
        return answer.request

    @torch.inference_mode()
    def _embed(self, inputs: Mapping[str, Any]) -> Tensor:
        """(length, width) of a whole prompt, pictures in place; with marks where there are experts."""
        prompt = read_prompt(self.model, inputs, digests=True)
        with self._seeing:
            embeddings = self._embedder.embed(prompt, 0, prompt.length)[0].cpu()
        if not hasattr(self.model, "lay_out_prompt"):
            return embeddings
        return with_marks(embeddings, prompt, self.model.config.get_text_config().num_attention_heads)


class _Answer:
    """One request's thread: reads vLLM's stream into a `Request`."""

    def __init__(self, number: int) -> None:
        self.news = threading.Condition()
        self.request = Request(number, self._wait, self._cancel)
        self._response: httpx.Response | None = None
        self._reason: FinishReason | None = None

    def run(self, client: httpx.Client, body: dict[str, Any]) -> None:
        """From the first event to the last."""
        try:
            with client.stream("POST", "/v1/completions", json=body) as response:
                self._response = response
                if response.is_error:
                    raise refusal(response.status_code, response.read())
                for line in response.iter_lines():
                    if self.request.is_cancelled:
                        return
                    if line.startswith("data:") and (text := line[5:].strip()) != "[DONE]":
                        self._take(json.loads(text))
            if self._reason is None:
                raise CapacityError("vLLM ended the answer before it was complete; ask again")
            with self.news:
                self.request.finish_reason = self._reason
                self.news.notify_all()
        except BeholderError as error:
            self._end(error=error)
        except (httpx.HTTPError, httpx.StreamError, ValueError, KeyError, RuntimeError) as error:
            if not self.request.is_cancelled:
                self._end(error=CapacityError(f"vLLM cannot be reached ({error or type(error).__name__})"))

    def _take(self, told: dict[str, Any]) -> None:
        """One event: new ids, their scores, why it ends, or what it cost."""
        if error := told.get("error"):
            raise CapacityError(f"vLLM: {error.get('message', error)}")
        usage: dict[str, Any] = told.get("usage") or {}
        details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
        self.request.cached_tokens = details.get("cached_tokens") or self.request.cached_tokens
        if not told.get("choices"):
            return
        choice = told["choices"][0]
        ids = [int(token) for token in choice.get("token_ids") or ()]
        reason = choice.get("finish_reason")
        stopped_by = choice.get("stop_reason")
        if (
            reason == "stop"
            and isinstance(stopped_by, int)
            and (ids or self.request.ids or [None])[-1] != stopped_by
        ):
            ids.append(stopped_by)  # an id that ends the answer is left out by some versions
        with self.news:
            clock = self.request.clock
            if ids:
                clock.last = time.perf_counter()
                clock.first = clock.first or clock.last
                clock.started = clock.started or clock.first
            self.request.ids += ids
            self.request.scores += read_scores(choice.get("logprobs"))
            if reason is not None:
                self._reason = cast("FinishReason", "length" if reason == "length" else "stop")
            self.news.notify_all()

    def _end(self, error: BaseException) -> None:
        with self.news:
            self.request.error = error
            self.news.notify_all()

    def _wait(self, request: Request) -> None:
        with self.news:
            self.news.wait_for(lambda: request.has_news)

    def _cancel(self, _request: Request) -> None:
        if self._response is not None:
            self._response.close()  # vLLM ends what nobody reads
        with self.news:
            self.news.notify_all()


def request_body(served: str, embeddings: Tensor, sampling: Sampling, ends: frozenset[int]) -> dict[str, Any]:
    """The request as vLLM's completions take it; which ids end the answer is our affair, so all are named."""
    held = io.BytesIO()
    torch.save(embeddings.contiguous(), held)
    body: dict[str, Any] = {
        "model": served,
        "prompt_embeds": base64.b64encode(held.getvalue()).decode("ascii"),
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
        "ignore_eos": True,
        "stop_token_ids": sorted(ends),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logprobs": sampling.logprobs,
        "seed": sampling.seed,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()} or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def read_scores(told: Any) -> list[TokenScore]:
    """vLLM's log-probabilities, whose tokens are written `token_id:N`."""
    if not told:
        return []
    scores: list[TokenScore] = []
    none: list[dict[str, float] | None] = [None] * len(told["tokens"])
    likeliest: list[dict[str, float] | None] = told.get("top_logprobs") or none
    for token, logprob, beside in zip(told["tokens"], told["token_logprobs"], likeliest, strict=True):
        ranked = sorted((beside or {}).items(), key=lambda pair: -pair[1])
        pairs = tuple((_read_id(name), value) for name, value in ranked)
        scores.append(TokenScore(_read_id(token), logprob, pairs))
    return scores


def _read_id(token: str) -> int:
    return int(token.removeprefix(ID_MARK))


def refusal(status: int, held: bytes) -> BeholderError:
    """vLLM's refusal as ours: what it cannot do now, or never."""
    try:
        told = json.loads(held)
        message = str((told.get("error") or told).get("message") or told)
    except (ValueError, AttributeError):
        message = held[:300].decode("utf-8", "replace")
    if status in (429, 503):
        return CapacityError(f"vLLM: {message}")
    return InputError(f"vLLM: {message}") if status < 500 else BeholderError(f"vLLM: {message}")


def forget_language_model(model: Any) -> None:
    """Free what vLLM has as well, layers and head; tower, projector and embedding stay. Twice is no harm."""
    embedding = model.get_input_embeddings()
    for module in model.modules():
        if getattr(module, "embed_tokens", None) is embedding and hasattr(module, "layers"):
            module.layers = nn.ModuleList()
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear) and head.weight is not embedding.weight:
        model.set_output_embeddings(nn.Identity())
