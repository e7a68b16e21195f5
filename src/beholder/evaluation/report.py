"""A run as one HTML page: figures, then every row with its picture, wrong answers first, with filters."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from beholder.core.records import RunRecord
from beholder.evaluation.cards import table
from beholder.evaluation.compare import credit
from beholder.evaluation.task import Row

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1a1a1a}
pre{background:#f4f4f4;padding:1rem;overflow:auto}
article{display:grid;grid-template-columns:220px 1fr;gap:1rem;border-top:1px solid #ccc;padding:.8rem 0}
article img{max-width:220px;max-height:220px}
article p{margin:.2rem 0;white-space:pre-wrap;overflow-wrap:anywhere}
.mark{font-weight:bold}.wrong .mark{color:#a40000}.right .mark{color:#00632e}.partly .mark{color:#7a4b00}
.error .mark{color:#6a00a4}
form{position:sticky;top:0;background:#fff;padding:.5rem 0;border-bottom:1px solid #ccc}
@media(max-width:600px){article{grid-template-columns:1fr}}
"""
SCRIPT = """
const rows=[...document.querySelectorAll('article')],form=document.querySelector('form'),
count=document.querySelector('#count');
function show(){const text=form.text.value.toLowerCase(),kind=form.kind.value;let shown=0;
for(const row of rows){const has=!text||row.textContent.toLowerCase().includes(text);
const ok=has&&(!kind||row.className===kind);
row.hidden=!ok;row.style.display=ok?'':'none';shown+=ok}
count.textContent=shown+' of '+rows.length+' rows'}
form.addEventListener('input',show);form.addEventListener('submit',e=>e.preventDefault());show();
"""
ORDER = {"error": 0, "wrong": 1, "partly": 2, "right": 3, "unscored": 4}


def write_report(
    path: Path,
    lines: Iterable[Mapping[str, Any]],
    rows: Mapping[str, Row],
    data: Path,
    record: RunRecord | None,
) -> Path:
    """Write the page; pictures are linked from where the data are, or stand in the page."""
    told = sorted(lines, key=lambda line: ORDER[verdict(line)])
    articles = "\n".join(_article(line, rows.get(line["id"], {}), data, path.parent) for line in told)
    title = html.escape(f"{record.measure}: {record.subject}" if record else "rows without a score card")
    head = f"<pre>{html.escape(table(record))}</pre>{_settings(record)}" if record else ""
    kinds = "".join(f"<option>{kind}</option>" for kind in ORDER)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{head}"
        f'<form><label>Show <select name="kind"><option value="">all</option>{kinds}</select></label> '
        f'<label>containing <input name="text"></label> <span id="count" role="status"></span></form>'
        f"{articles}<script>{SCRIPT}</script></html>\n"
    )
    path.write_text(page, encoding="utf-8")
    return path


def verdict(line: Mapping[str, Any]) -> str:
    """How a row went."""
    if "error" in line or "judge_error" in line:
        return "error"
    worth = credit(line.get("scores", {}))
    if worth is None:
        return "unscored"
    return "right" if worth >= 1 else "wrong" if worth <= 0 else "partly"


def _settings(record: RunRecord) -> str:
    told = {"code": record.code, "machine": record.machine, "weights": record.weights, **record.settings}
    return (
        f"<details><summary>Settings</summary><pre>{html.escape(json.dumps(told, indent=1))}</pre></details>"
    )


def _article(line: Mapping[str, Any], row: Row, data: Path, home: Path) -> str:
    kind = verdict(line)
    scores: Mapping[str, Any] = line.get("scores", {})
    error = line.get("error") or line.get("judge_error")
    parts = [
        ("id", line["id"]),
        ("asked", line.get("prompt") or line.get("question", "")),
        ("answer", line.get("answer", "")),
        ("expected", scores.get("expected")),
        ("error", error),
    ]
    text = "".join(
        f"<p><b>{name}</b> {html.escape(_words(value))}</p>"
        for name, value in parts
        if value not in (None, "")
    )
    rest = {
        key: value for key, value in scores.items() if key not in ("expected", "image", "words", "references")
    }
    told = html.escape(json.dumps(rest, ensure_ascii=False))
    return (
        f'<article class="{kind}"><div>{_picture(row, data, home)}</div>'
        f'<div><p class="mark">{kind}</p>{text}'
        f"<details><summary>scores</summary><p>{told}</p></details></div></article>"
    )


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _picture(row: Row, data: Path, home: Path) -> str:
    image = row.get("image", "")
    if not image:
        return ""
    # Quoted, for names may hold characters that mean something in an address.
    linked = quote(Path(os.path.relpath(data / image, home)).as_posix())
    source = image if image.startswith("data:") else linked
    return f'<img loading="lazy" alt="" src="{html.escape(source, quote=True)}">'
