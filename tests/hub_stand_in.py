"""A hub on loopback: folders as repositories, served as far as huggingface_hub's client asks for them.

A data set's name begins with datasets/, as in its address.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories of one commit each, which may be replaced. `requests` are (method, path, status)."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.ranges: list[str] = []
        self.cut: dict[str, int] = {}  # file -> bytes after which the line breaks, once
        self.broken: set[str] = set()  # files that the hub cannot read
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self, has_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, has_body=False)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def run(
        self, home: Path, *arguments: str, offline: bool = False, code: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`beholder ARGUMENTS`, or a program, in a folder, with this hub and a cache of its own there."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "BEHOLDER"))},
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "OMP_NUM_THREADS": "1",
        }
        start = ["-c", code] if code else ["-m", "beholder"]
        return subprocess.run(
            [sys.executable, *start, *arguments],
            env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def put(self, name: str, folder: Path, *, without: tuple[str, ...] = ()) -> str:
        """Publish a folder; the commit follows from its content."""
        self.repositories[name] = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in without
        }
        return self.commit(name)

    def commit(self, name: str) -> str:
        sha = hashlib.sha1()
        for path, content in sorted(self.repositories[name].items()):
            sha.update(path.encode() + b"\0" + content)
        return sha.hexdigest()

    def answer(self, handler: BaseHTTPRequestHandler, *, has_body: bool) -> None:
        path = unquote(urlsplit(handler.path).path)
        status, headers, body = self._find(path, handler.headers.get("Range"), is_head=not has_body)
        self.requests.append((handler.command, path, status))
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if not has_body:
            return
        most = self.cut.pop(path.rsplit("/", 1)[-1], None)
        handler.wfile.write(body if most is None else body[:most])
        if most is not None:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.close()

    def _find(self, path: str, ranged: str | None, *, is_head: bool) -> tuple[int, dict[str, str], bytes]:
        pieces = path.strip("/").split("/")
        if pieces[:2] == ["api", "models"]:
            return self._told("/".join(pieces[2:4]), pieces[4:])
        if pieces[:2] == ["api", "datasets"]:
            return self._told("/".join(pieces[1:4]), pieces[4:])
        of_name = 3 if pieces[0] == "datasets" else 2
        name, pieces = "/".join(pieces[:of_name]), pieces[of_name - 2 :]
        if len(pieces) < 5 or pieces[2] != "resolve" or name not in self.repositories:
            return self._absent("RepoNotFound")
        content = self.repositories[name].get("/".join(pieces[4:]))
        if content is None:
            return self._absent("EntryNotFound")
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": self.commit(name),
            "Accept-Ranges": "bytes",
        }
        if pieces[-1] in self.broken and not is_head:
            return 500, {}, b""
        if ranged and ranged.startswith("bytes="):
            self.ranges.append(ranged)
            start = int(ranged.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return 206, headers, content[start:]
        return 200, headers, content

    def _told(self, name: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        if name not in self.repositories:
            return self._absent("RepoNotFound")
        commit = self.commit(name)
        if len(rest) >= 2 and rest[1] not in ("main", commit):
            return self._absent("RevisionNotFound")
        files = self.repositories[name]
        if rest[:1] == ["tree"]:
            told: object = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
        else:
            told = {
                "_id": name, "id": name, "modelId": name, "sha": commit, "private": False, "gated": False,
                "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                "siblings": [{"rfilename": path} for path in files],
            }  # fmt: skip
        return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()

    def _absent(self, code: str) -> tuple[int, dict[str, str], bytes]:
        return 404, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"
