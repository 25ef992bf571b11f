"""A server on the loopback that speaks as much of the hub's protocol as the client asks for.

Large files (``.ckpt``, ``.safetensors``) are answered as the hub answers them: a redirect with
``X-Linked-Etag`` and ``X-Linked-Size`` to another address, and LFS for uploads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

LARGE = (".ckpt", ".safetensors")
TOKEN = "hf_good"


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    range: str | None
    token: str | None


class HubServer(ThreadingHTTPServer):
    """Repositories as commit -> files, and a list of misfortunes to come."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.asked: list[Asked] = []
        self.errors: dict[str, list[int]] = {}  # method -> next answers
        self.break_after: list[int] = []  # bytes after which the next downloads end
        self.stall_after: list[int] = []  # bytes after which the next downloads stand still
        self.stalled = threading.Event()
        self.silent = 0  # answers that never come
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def cdn(self) -> str:
        return f"http://localhost:{self.server_port}"  # another host, which gets no tokens

    def commit(self, repo: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Add files on top of a branch; return the commit."""
        refs, commits = self.refs.setdefault(repo, {}), self.commits.setdefault(repo, {})
        content = {**commits.get(refs.get(ref, ""), {}), **files}
        text = repr([(name, hashlib.sha256(data).hexdigest()) for name, data in content.items()])
        sha = hashlib.sha1(text.encode()).hexdigest()
        commits[sha] = content
        refs[ref] = sha
        self.blobs.update({hashlib.sha256(data).hexdigest(): data for data in content.values()})
        return sha

    def find(self, repo: str, ref: str) -> dict[str, bytes] | None:
        return self.commits[repo].get(self.refs[repo].get(ref, ref))

    def downloads(self) -> list[Asked]:
        """Return the requests that asked for the content of a large file."""
        return [a for a in self.asked if a.method == "GET" and a.path.startswith("/cdn/")]

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep the tests' output clean: connections are broken on purpose."""


@contextmanager
def serve() -> Iterator[HubServer]:
    """Run a server in a thread."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.daemon = True
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization")
        with self.server.lock:
            self.server.asked.append(Asked(self.command, path, self.headers.get("Range"), token))
        return path

    def _answer(self, status: int, content: bytes | dict = b"", **headers: str) -> None:
        if isinstance(content, dict):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _allowed(self, repo: str) -> bool:
        server = self.server
        signed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo not in server.refs or (repo in server.private and not signed):
            status = 404 if signed else 401  # the hub does not tell strangers what exists
            self._answer(status, X_Error_Code="RepoNotFound", X_Error_Message="Repo not found")
            return False
        if repo in server.gated and not signed:
            self._answer(401, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            return False
        return True

    def _misfortune(self) -> bool:
        with self.server.lock:
            queue = self.server.errors.get(self.command, [])
            status = queue.pop(0) if queue else 0
            silent, self.server.silent = self.server.silent, max(0, self.server.silent - 1)
        if silent:
            time.sleep(1)
            self.close_connection = True
            return True
        if status:
            self._answer(status)
        return bool(status)

    def do_HEAD(self) -> None:
        path = self._note()
        if not self._misfortune():
            self._resolve(path)

    def do_GET(self) -> None:
        path = self._note()
        if self._misfortune():
            return
        if path.startswith("/cdn/"):
            self._download(self.server.blobs[path.removeprefix("/cdn/")])
        else:
            self._resolve(path)

    def _resolve(self, path: str) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match is None:
            self._answer(404)
            return
        repo, ref, name = match.groups()
        if not self._allowed(repo):
            return
        files = self.server.find(repo, ref)
        if files is None:
            self._answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return
        commit = self.server.refs[repo].get(ref, ref)
        if name not in files:
            self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        data = files[name]
        sha = hashlib.sha256(data).hexdigest()
        if name.endswith(LARGE):
            self._answer(
                302,
                Location=f"{self.server.cdn}/cdn/{sha}",
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{sha}"',
                X_Linked_Size=str(len(data)),
            )
        else:
            etag = hashlib.sha1(data).hexdigest()
            self._answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=commit)

    def _download(self, data: bytes) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if self.headers.get("Range") else 200)
        if self.headers.get("Range"):
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        queue = self.server.break_after
        end = start + queue.pop(0) if queue else len(data)
        if self.server.stall_after:
            self.wfile.write(data[start : start + self.server.stall_after.pop(0)])
            self.wfile.flush()
            self.server.stalled.set()
            time.sleep(5)
            return
        self.wfile.write(data[start:end])
        if end < len(data):
            self.wfile.flush()
            self.close_connection = True

    def do_PUT(self) -> None:
        path = self._note()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        sha = path.removeprefix("/upload/")
        assert hashlib.sha256(data).hexdigest() == sha
        self.server.blobs[sha] = data
        self._answer(200)

    def do_POST(self) -> None:
        path = self._note()
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._misfortune():
            return
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, X_Error_Message="Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            repo, branch = match.groups()
            self.server.refs[repo].setdefault(branch, self.server.refs[repo].get("main", ""))
            self._answer(201)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            self._preupload(json.loads(body))
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._lfs(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self._commit(*match.groups(), body)
        else:
            self._answer(404)

    def _create(self, wanted: dict) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo in self.server.refs:
            self._answer(409, {"error": "already there", "url": f"{self.server.url}/{repo}"})
            return
        self.server.refs[repo], self.server.commits[repo] = {}, {}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.server.private.add(repo)
        self._answer(200, {"url": f"{self.server.url}/{repo}", "id": repo})

    def _preupload(self, wanted: dict) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in wanted["files"]
        ]
        self._answer(200, {"files": files})

    def _lfs(self, wanted: dict) -> None:
        objects = [
            {
                **item,
                "actions": {"upload": {"href": f"{self.server.url}/upload/{item['oid']}"}},
            }
            for item in wanted["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, branch: str, body: bytes) -> None:
        files = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        sha = self.server.commit(repo, files, branch)
        url = f"{self.server.url}/{repo}/commit/{sha}"
        self._answer(200, {"success": True, "commitOid": sha, "commitUrl": url})
