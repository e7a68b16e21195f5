"""A folder that is there when it is whole: of what failed, was interrupted or told to end nothing stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from beholder.checkpoints.new_folder import new_folder
from beholder.core.errors import ConfigError

WRITER = """
import sys, time
from pathlib import Path
from beholder.checkpoints.new_folder import new_folder
with new_folder(Path(sys.argv[1])) as partial:
    (partial / "model.safetensors").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_it_appears_when_it_is_whole(tmp_path: Path):
    (tmp_path / "made").mkdir()  # an empty one is no hindrance
    with new_folder(tmp_path / "made") as partial:
        (partial / "a").write_text("whole")
        assert not list((tmp_path / "made").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "a").read_text() == "whole"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_where_it_fails(error, tmp_path: Path):
    def fail() -> None:
        with new_folder(tmp_path / "made") as partial:
            (partial / "a").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays(tmp_path: Path):
    (tmp_path / "made").write_text("something")
    with (
        pytest.raises(ConfigError, match="made exists and is not an empty folder; give a new one"),
        new_folder(tmp_path / "made"),
    ):
        pass
    assert (tmp_path / "made").read_text() == "something"


def test_told_to_end_it_takes_what_it_wrote_along(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "made")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert [path.name for path in tmp_path.iterdir()] == [f"made.partial-{process.pid}"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert not list(tmp_path.iterdir())


def test_somebody_elses_handler_stays(tmp_path: Path):
    """A server's, for example; and other threads may not set any."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with new_folder(tmp_path / "made"):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    with new_folder(tmp_path / "other"):
        assert signal.getsignal(signal.SIGTERM) is not before or before is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before
    failed: list[BaseException] = []

    def write() -> None:
        try:
            with new_folder(tmp_path / "third"):
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert not failed
    assert (tmp_path / "third").is_dir()
