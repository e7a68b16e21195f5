"""What lies in deploy/ fits the program: files that are copied, options, routes, metrics."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from beholder.cli.serve import serve
from beholder.serving.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def dockerfile() -> list[str]:
    """Its instructions, one a line."""
    told = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in told.splitlines() if line and not line.lstrip().startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


def check_options(given: list[str]) -> None:
    """Every --option is one of `beholder serve`."""
    known = set(inspect.signature(serve).parameters)
    used = [one for one in given if one.startswith("--")]
    assert used
    assert not [one for one in used if one[2:].replace("-", "_") not in known]


def test_the_image_has_what_the_package_is_built_from():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [project["project"]["readme"], *project["project"]["license-files"], *wheel["packages"]]
    needed += [
        *wheel["shared-data"],
        *wheel["force-include"],
        wheel["hooks"]["custom"]["path"],
        "pyproject.toml",
    ]
    copied = [
        source
        for line in dockerfile()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert all((ROOT / source).exists() for source in copied)
    assert not [one for one in needed if not any(f"{one}/".startswith(f"{source}/") for source in copied)]


def test_the_image_runs_as_nobody_special_and_says_whether_it_is_ready():
    lines = dockerfile()
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    stage = lines[last:]
    assert "USER beholder" in stage
    (check,) = [line for line in stage if line.startswith("HEALTHCHECK")]
    assert "/ready" in check
    (entry,) = [line for line in stage if line.startswith("ENTRYPOINT")]
    command = json.loads(entry.removeprefix("ENTRYPOINT"))
    assert command[:2] == ["beholder", "serve"]
    check_options(command)


def test_the_unit_starts_what_there_is():
    (start,) = re.findall(r"^ExecStart=(.*)$", (DEPLOY / "beholder.service").read_text(), re.MULTILINE)
    command = shlex.split(start)
    assert command[0].endswith("/bin/beholder")
    assert command[1] == "serve"
    check_options(command)


def test_the_compose_file_names_files_that_are_there():
    services: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    build = services["beholder"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    mounted = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service["volumes"]
        if volume.startswith(".")
    ]
    assert len(mounted) >= 4
    assert all((DEPLOY / file).is_file() for file in mounted)
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["beholder:8000"]}]


@pytest.fixture(scope="module")
def drawn() -> Any:
    """The dashboard as its script makes it."""
    spec = importlib.util.spec_from_file_location("draw_dashboard", DEPLOY / "grafana" / "draw_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dashboard()


def test_the_dashboard_is_the_drawn_one(drawn):
    assert json.loads((DEPLOY / "grafana" / "beholder.json").read_text()) == drawn


def test_the_dashboard_asks_for_metrics_that_there_are(drawn):
    metrics = Metrics()
    for name in ("requests_running", "requests_waiting"):
        metrics.watch(name, "As the server has them.", lambda: 0)
    families = {family.name: family.type for family in metrics.registry.collect()}
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    known = {name + ending for name, kind in families.items() for ending in endings[kind]}
    queries = [target["expr"] for panel in drawn["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"beholder_\w+", query)}
    assert asked
    assert not asked - known
