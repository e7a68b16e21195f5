"""Requests made by schemathesis from our own OpenAPI page, valid and not: nothing unhandled, no odd status.

    BEHOLDER_SCHEMATHESIS=/opt/schema/bin/schemathesis python benchmarks/serving_schema.py
        [--examples 200] [--seed 0] [--out FILE]

schemathesis lives in an environment of its own. `beholder serve` runs over the built-in model. The page is
narrowed, else hardly a request would reach the model: `model` is the one that is there, and fields that must
ask for nothing are left out. An answer may take a second, and is a 408 after that.
One check is left out, that every request which the page allows is accepted: which fields go together and
which pictures exist, a schema does not say. Ends with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from serving_requests import KEY, MODEL
from serving_soak import get, metric, serving

from beholder.core.errors import ConfigError
from beholder.core.records import capture, hash_weights
from beholder.mini import FOLDER
from beholder.serving.schemas import ONLY, ONLY_IN_MESSAGES

HERE = Path(__file__).resolve().parent
VARIABLE = "BEHOLDER_SCHEMATHESIS"
LEFT_OUT = "positive_data_acceptance"
LONGEST = "1"  # seconds of an answer; then it is a 408, which the page has


def narrowed(page: dict[str, Any]) -> dict[str, Any]:
    """The page with one model, and without the fields that ask for what is not done here."""
    for schema in page["components"]["schemas"].values():
        fields = schema.get("properties", {})
        if "model" in fields:
            fields["model"] = {"type": "string", "enum": [MODEL]}
        for name in (*ONLY, *ONLY_IN_MESSAGES):
            fields.pop(name, None)
        fields.pop("max_completion_tokens", None)  # only taken with the value of max_tokens
    return page


def run(program: str, port: int, folder: Path, options: argparse.Namespace) -> tuple[int, str]:
    """schemathesis's exit code, and what it printed."""
    page = folder / "openapi.json"
    page.write_text(json.dumps(narrowed(json.loads(get(port, "/openapi.json") or "{}"))))
    command = [
        program, "run", str(page), "--url", f"http://127.0.0.1:{port}",
        "--header", f"Authorization: Bearer {KEY}", "--exclude-checks", LEFT_OUT,
        "--max-examples", str(options.examples), "--seed", str(options.seed), "--continue-on-failure",
        "--workers", "1", "--no-color", "--request-timeout", "60", "--generation-database", "none",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return done.returncode, done.stdout + done.stderr


def answered(port: int, status: int) -> float:
    """Chat requests that ended with a status."""
    labels = f'method="POST",route="/v1/chat/completions",status="{status}"'
    return metric(port, f"beholder_http_requests_total{{{labels}}}")


def main() -> None:
    """Run, check, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=200, help="for each operation and phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"serving-schema-{date.today()}.json")
    options = parser.parse_args()
    if not (program := os.environ.get(VARIABLE)):
        raise ConfigError(f"{VARIABLE} does not say where the program schemathesis is")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="beholder-schema-") as place:
        folder = Path(place)
        with serving(folder, "--timeout", LONGEST) as (port, _):
            code, printed = run(program, port, folder, options)
            values = {
                "requests": metric(port, "beholder_http_requests_total"),
                "chat_answered": answered(port, 200),
                "chat_refused": answered(port, 400),
                "internal_errors": metric(port, 'beholder_errors_total{cause="internal"}'),
                "exceptions": float((folder / "log").read_text().count('"exception"')),
                "failed": float(code != 0),
            }
    print(printed)
    record = capture(
        subject="beholder-mini", weights=hash_weights(FOLDER), measure="serving schema", values=values,
        samples=int(values["requests"]), seconds=time.perf_counter() - begun,
        settings={
            "schemathesis": told.split()[-1], "examples": options.examples, "seed": options.seed,
            "left_out": LEFT_OUT,
            "summary": printed[printed.rfind("SUMMARY") :].splitlines()[:40],
        },
    )  # fmt: skip
    for name, value in values.items():
        print(f"{name:>16}  {value:g}")
    print(record.write(options.out))
    sys.exit(code or bool(values["internal_errors"] or values["exceptions"]))


if __name__ == "__main__":
    main()
