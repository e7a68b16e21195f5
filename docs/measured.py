"""Makes the tables of measurements in pages beside it from the records in benchmarks/results.

    python docs/measured.py [--check]

For each the newest record counts. `--check` writes nothing and fails if a page says anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beholder.core.records import RunRecord

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "benchmarks" / "results"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
RUN = "`python benchmarks/{}`"

Rows = tuple[tuple[str, str, str], ...]


def speed(which: str) -> Rows:
    """Lines about one process beside one replica and two, each on a core of its own."""
    return (
        (f"{which}: requests a second of one process, one replica, two",
         "{requests a second, one process:.2f}, {requests a second, replicas: 1:.2f}, "
         "{requests a second, replicas: 2:.2f}", ""),
        (f"{which}: two replicas over one process", "{two replicas over one process:.2f} ×", "1.8 ×"),
        (f"{which}: cores that answered: one process, two replicas; faster for each core they got",
         "{cores that answered, one process:.2f}, {cores that answered, replicas: 2:.2f}; "
         "{the same for the cores they got:.2f} ×", ""),
        (f"{which}: what controller and Ray add to a short answer",
         "{seconds that the ingress adds:.4f} s", ""),
    )  # fmt: skip


def costs(which: str) -> Rows:
    """Lines about what the same took of two cores."""
    return (
        (f"{which}: what two cores get done over one, of loops that share nothing",
         "{two loops that share nothing over one:.2f} ×", ""),
        (f"{which}: processor time of a request: one process; replica, controller and Ray, two replicas",
         "{processor seconds of a request, answering, one process:.3f} s; "
         "{processor seconds of a request, answering, replicas: 2:.3f}, "
         "{processor seconds of a request, controller, replicas: 2:.3f}, "
         "{processor seconds of a request, Ray, replicas: 2:.3f} s", ""),
    )  # fmt: skip


def vllm(family: str) -> tuple[str, Rows]:
    """A family's greedy tokens in vLLM."""
    what = f"{family} in vLLM: golden answers as the original's; answers of a random model as ours"
    value = "{goldens, vllm equal:.0f} of {goldens:.0f}; {equal answers:.0f} of {answers:.0f}"
    return f"vllm_tokens.py --family {family}", ((what, value, "all"),)


def serving(model: str) -> dict[str, tuple[str, Rows]]:
    """What the server costs a model."""
    of = model.lower().removeprefix("beholder-")
    return {
        f"serving-{model}-overhead": (
            f"serving_speed.py {COMMANDS[model]} --figures overhead --tokens {{tokens}}",
            ((f"{of}: {{streams}} streams at once, more time than the bare engine",
              "{overhead_percent:.1f} %", "3 %"),),
        ),
        f"serving-{model}-first": (
            f"serving_speed.py {COMMANDS[model]} --figures first",
            ((f"{of}: first token, later than the engine's {{engine_first_token_ms:.0f}} ms, at the median",
              "{difference_of_medians_ms:.1f} ms", "5 ms"),),
        ),
        f"serving-{model}-pictures": (
            f"serving_speed.py {COMMANDS[model]} --figures pictures --answer {{answer}}",
            (
                (f"{of}: {{samples}} picture requests at once, tokens a second beside `transformers serve`",
                 "{tokens_per_s:.0f}, {peer_tokens_per_s:.1f}: {times_peer:.1f} ×", "5 ×"),
                (f"{of}: the longest wait among them over the median", "{wait_max_times_p50:.2f} ×", "2 ×"),
            ),
        ),
    }  # fmt: skip


def decode(weights: str, peer: str, batch: int) -> Rows:
    """A step of the native trunk beside its peers'."""
    ours, theirs = f"{weights}_batch{batch}", f"llama.cpp_{peer}_batch{batch}_ms"
    return (
        (f"{weights}, {batch} at once: ms a step, llama.cpp's in {peer}, transformers' in bfloat16",
         f"{{{ours}_ms:.1f}}, {{{theirs}:.1f}}, {{transformers_batch{batch}_ms:.0f}}", ""),
        (f"{weights}, {batch} at once: share of the memory's speed", f"{{{ours}_share:.0%}}",
         "90 %" if batch == 1 else ""),
    )  # fmt: skip


def whole(form: str) -> tuple[str, Rows]:
    """A 7B model in a form, opened and asked."""
    return (
        f"native_whole.py llava-1.5-7b-{form} --tokens {{tokens}} --llama-cpp PYTHON",
        (
            (f"LLaVA-1.5 7B in {form}: largest memory with one answer; with what {{samples}} pictures leave",
             "{peak_gb:.2f} GB, {kept_peak_gb:.2f} GB", "5.5 GB" if form == "int4" else ""),
            (f"LLaVA-1.5 7B in {form}: seconds to open", "{open_s:.1f} s", ""),
            (f"LLaVA-1.5 7B in {form}: ms a token; llama.cpp's of as many bits",
             "{ms_per_token:.0f}, {peer_ms_per_token:.0f}", "less"),
            (f"LLaVA-1.5 7B in {form}: first token with a picture; the tower in it; llama.cpp's for so many "
             "words", "{first_token_ms:.0f} ms, {tower_ms:.0f} ms, {peer_prompt_ms:.0f} ms", ""),
        ),
    )  # fmt: skip


def first(form: str, peer: str, called: str, wanted: str = "") -> Rows:
    """The first token of a picture and those after it, beside a peer's."""
    return (
        (f"1.1B LLaVA in {form}: first token with a picture; {called}'s; of theirs",
         f"{{{form}_first_ms:.0f}} ms, {{{peer}_first_ms:.0f}} ms; {{{form}_first_ms_over_peer:.2f}} ×",
         wanted),
        (f"1.1B LLaVA in {form}: ms a token after it; {called}'s",
         f"{{{form}_ms_per_token:.1f}}, {{{peer}_ms_per_token:.1f}}", ""),
    )  # fmt: skip


def engines(form: str, batch: int, wanted: str = "") -> tuple[str, str, str]:
    """A step of our whole engine beside vLLM's."""
    ours = f"{form}_batch{batch}"
    return (
        f"{form}, {batch} at once, whole engines: ms a step; vLLM's in bfloat16; as fast",
        f"{{{ours}_ms:.1f}}, {{vllm_batch{batch}_ms:.1f}}; {{{ours}_times_vllm:.2f}} ×", wanted,
    )  # fmt: skip


def narrowed(name: str, called: str) -> tuple[str, str, str]:
    """What a way to find narrow numbers costs."""
    return (
        f"{called}: divergence, mean and worst; same token",
        f"{{{name}_divergence:.5f}}, {{{name}_worst:.3f}} nats; {{{name}_agreement:.1%}}", "",
    )  # fmt: skip


def trained(model: str, called: str) -> tuple[str, Rows]:
    """Training beside TRL."""
    return (
        f"training_speed.py --model {model} --rows {{rows}} --batch {{batch}} --repeats {{repeats}}",
        (
            (f"{called}: samples a second; TRL's",
             "{beholder_samples_per_s:.2f}, {trl_samples_per_s:.2f}", ""),
            (f"{called}: as fast as TRL's SFTTrainer", "{speed_ratio:.2f} ×", "1.3 ×"),
            (f"{called}: of its peak memory", "{memory_ratio:.2f} ×", "1.0 ×"),
            (f"{called}: of a step spent waiting for data", "{beholder_waiting_share:.1%}", "2 %"),
        ),
    )  # fmt: skip


COMMANDS = {"beholder-mini": "", "llava-1.1b": "llava-1.1b"}
# page -> name of a record -> command, and lines of (what, how it is said, what is asked for)
PAGES: dict[str, dict[str, tuple[str, Rows]]] = {"scale.md": {
    "cluster-kill": (
        "cluster.py kill --requests {samples} --models {models} --replicas {replicas} --every {every:g}",
        (
            ("right answers while {replicas killed:.0f} replicas and {nodes killed:.0f} nodes were killed",
             "{right:.0f} of {samples}", "99.5 %"),
            ("errors that ask to come again", "{retryable errors:.0f}", ""),
            ("answers that end in anything else", "{anything else:.0f}", "0"),
            ("a request, median and longest", "{median seconds:.1f} s, {longest seconds:.1f} s", ""),
            ("all replicas there again after the last kill", "{seconds until whole again:.0f} s", ""),
        ),
    ),
    "cluster-update": (
        "cluster.py update",
        (("right answers while the model was replaced on every worker", "{right:.0f} of {samples}", "all"),),
    ),
    "cluster-grow": (
        "cluster.py grow --requests {samples}",
        (
            ("a second replica answers after so long of too many requests, and goes after so long of none",
             "{seconds to two replicas:.0f} s, {seconds without requests to one replica:.0f} s", ""),
            ("right answers meanwhile", "{right:.0f} of {samples}", "all"),
        ),
    ),
    "cluster-restart": (
        "cluster.py restart",
        (
            ("a dead replica, a dead node is off the list of models",
             "{seconds until a dead replica is off the list:.1f} s, "
             "{seconds until a dead node is off the list:.1f} s", "2 s"),
            ("head and controller killed and started again: listed, answering",
             "{seconds to be listed again:.0f} s, {seconds to answer again:.0f} s", ""),
        ),
    ),
    "cluster-speed": (
        "cluster.py speed --requests {samples}",
        (*speed("the built-in model"), *costs("the built-in model")),
    ),
    "cluster-speed-llava-1.1b-4-layers-fresh": (
        "cluster.py speed --model llava-1.1b-4-layers --tokens {tokens} --requests {samples} --fresh",
        (*speed("4 layers of 1.1B, a new picture each, {tokens} tokens"), *costs("4 layers of 1.1B")),
    ),
    "cluster-speed-M": (
        "cluster.py speed --model M --tokens {tokens} --requests {samples}",
        speed("1.1B, eight known pictures, {tokens} tokens"),
    ),
    **{f"vllm-tokens-{family}": vllm(family) for family in ("360vl", "llava", "internvl", "cogvlm")},
}, "serving.md": {
    **serving("beholder-mini"),
    **serving("llava-1.1b"),
    "serving-soak": (
        "serving_soak.py --requests {samples}",
        (
            ("{samples} requests, good, bad, cancelled, oversized: wrong answers, lost slots, answers 5xx",
             "{wrong:.0f}, {lost_slots:.0f}, {status_5xx:.0f}", "0, 0, 0"),
            ("growth of memory after the first part", "{growth_percent:.1f} %", "3 %"),
        ),
    ),
    "serving-schema": (
        "serving_schema.py",
        (("requests drawn by schemathesis: errors that nobody handled, of {samples}",
          "{exceptions:.0f}", "0"),),
    ),
}, "native-decode.md": {
    "native_decode": (
        "native_decode.py --layers {layers} --context {context} --llama-cpp PYTHON",
        tuple(row for batch in (1, 8) for pair in (("bfloat16", "BF16"), ("int8", "Q8_0"), ("int4", "Q4_0"))
              for row in decode(*pair, batch)),
    ),
    "native-openvino-llava-1.1b": (
        "native_openvino.py llava-1.1b --openvino PYTHON --int8 llava-1.1b-int8 --int4 llava-1.1b-int4",
        (
            *first("int8", "openvino_int8", "OpenVINO GenAI", "1.0 ×"),
            *first("int4", "openvino_int4", "OpenVINO GenAI"),
            *first("bfloat16", "transformers", "transformers", "0.8 ×"),
        ),
    ),
    "native-vllm-llava-1.1b": (
        "native_vllm.py llava-1.1b --context {context}",
        (engines("bfloat16", 1), engines("int8", 1), engines("bfloat16", 8, "1.2 ×"),
         engines("int8", 8, "2.2 ×")),
    ),
    "native-whole-llava-1.5-7b-int4": whole("int4"),
    "native-whole-llava-1.5-7b-int8": whole("int8"),
}, "training.md": {
    "training-beholder-mini": trained("mini", "the built-in model"),
    "training-llava-1.1b": trained("llava-1.1b --layers {layers}", "{layers} layers of 1.1B"),
}, "how-to/quantize.md": {
    "quantize-gate": (
        "quantize_gate.py --prompts {prompts} --rows {rows} --scenes {scenes}",
        (
            narrowed("int8", "int8, 8.0 bits a weight"),
            *(narrowed(f"int4_{group}", f"int4, groups of {group}, {4 + 16 / group:g} bits")
              for group in (32, 64, 128)),
            *(narrowed(f"int4_{group}_calibrated", f"the same, groups of {group}, calibrated")
              for group in (64, 128)),
            *(narrowed(f"hqq_{group}", f"HQQ, groups of {group}, {4 + 32 / group:g} bits")
              for group in (64, 128)),
            ("`worlds`: dense, int8, int4, int4 calibrated, as they are run",
             "{dense_worlds:.1%}, {int8_worlds:.1%}, {int4_worlds:.1%}, {int4_calibrated_worlds:.1%}", ""),
        ),
    ),
}}  # fmt: skip


def newest(kind: str) -> RunRecord | None:
    """The record of the last day; None where there is none yet."""
    files = sorted(RESULTS.glob(f"{kind}-????-??-??.json"))
    return RunRecord.read(files[-1]) if files else None


def said(template: str, told: dict[str, Any]) -> str:
    """A template whose names may hold blanks, commas and colons, as the records' do."""
    for name in sorted(told, key=len, reverse=True):
        head = "{" + name
        while (begin := template.find(head)) >= 0 and template[begin + len(head)] in ":}":
            end = template.index("}", begin)
            form = template[begin + len(head) : end].removeprefix(":")
            template = template[:begin] + format(told[name], form) + template[end + 1 :]
    return template


def lines(records: dict[str, tuple[str, Rows]]) -> list[str]:
    """The table, and where its numbers are from."""
    made = ["| what | measured | asked for | by |", "|---|--:|--:|---|"]
    sources: set[str] = set()
    for kind, (command, rows) in records.items():
        if (record := newest(kind)) is None:
            continue
        told = {"samples": record.samples, "replicas killed": 0, "nodes killed": 0}
        told |= {**record.settings, **record.values}
        sources.add(f"{record.machine}; code {record.code}")
        for what, value, wanted in rows:
            by = RUN.format(" ".join(said(command, told).split()))
            if "{" not in (found := said(value, told)):  # else the record is of before this was measured
                made.append(f"| {said(what, told)} | {found} | {wanted} | {by} |")
    return [*made, "", *(f"{source}." for source in sorted(sources))]


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or say whether they are as they should be."""
    are_current = True
    for name, records in PAGES.items():
        page = (HERE / name).read_text("utf-8")
        before, rest = page.split(BEGIN)
        after = rest.split(END)[1]
        wanted = f"{before}{BEGIN}\n" + "\n".join(lines(records)) + f"\n{END}{after}"
        are_current &= wanted == page
        if "--check" not in arguments:
            (HERE / name).write_text(wanted, "utf-8")
    return 0 if are_current or "--check" not in arguments else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
