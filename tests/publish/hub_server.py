"""A Hugging Face Hub on the loopback, as far as publishing and loading need one: repositories, commits, LFS, tokens, and faults.

It speaks the Hub's HTTP protocol to the real huggingface_hub, diffusers and datasets, keeps everything in memory, and checks what
it is sent: content that does not have the announced hash is refused.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITE_TOKEN, READ_TOKEN = "hf_" + "w" * 34, "hf_" + "r" * 34
LARGE = (".safetensors", ".png", ".parquet", ".onnx", ".wasm")


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose line holds `match` (`PUT /lfs`)."""

    match: str
    status: int | None = None  # None: the connection is cut in the middle of the request
    times: int = 1
    done: bool = False  # what was asked for is done before that; only the answer is lost
    seconds: float = 0  # of silence before it
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        state = json.dumps([sorted((k, hashlib.sha256(v).hexdigest()) for k, v in self.files.items()), self.commits])
        return hashlib.sha1(state.encode()).hexdigest()


class Hub:
    """`with Hub() as hub:` serves at `hub.endpoint`."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            def __init__(self, *args: Any) -> None:
                self.hub = hub
                super().__init__(*args)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        line = f"{self.command} {self.path}"
        self.hub.requests.append(line)
        length = int(self.headers.get("Content-Length") or 0)
        for fault in self.hub.faults:
            if fault.times and fault.match in line:
                fault.times -= 1
                threading.Event().wait(fault.seconds)  # tests may have put time.sleep to sleep
                body = self.rfile.read(length // 2 if fault.status is None and not fault.done else length)
                if fault.done:
                    self._answered_to_nobody(body)
                if fault.status is None:
                    self.connection.close()
                    self.close_connection = True
                else:
                    self._json({"error": "injected"}, fault.status, fault.headers)
                return
        body = self.rfile.read(length)
        try:
            self._route(self._parts(), body)
        except _HTTPError as error:
            self._json({"error": error.message}, error.status, {"X-Error-Message": error.message, **error.headers})

    def _parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _answered_to_nobody(self, body: bytes) -> None:
        self._send = lambda *answer: None  # type: ignore[method-assign]
        self._route(self._parts(), body)
        del self._send

    def _route(self, parts: list[str], body: bytes) -> None:
        kind, parts = (parts[0][:-1], parts[1:]) if parts[0] in ("datasets", "spaces") else ("model", parts)
        match parts:
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", kinds, namespace, name, *rest]:
                self._api(kinds.removesuffix("s"), f"{namespace}/{name}", rest, body)
            case ["lfs", "verify"]:
                self._json({})
            case ["lfs", oid]:
                if hashlib.sha256(body).hexdigest() != oid:
                    raise _HTTPError(400, "the content has another hash")
                self.hub.objects[oid] = body
                self._json({})
            case [namespace, name, "info", "lfs", "objects", "batch"]:
                self._repo(kind, f"{namespace}/{name.removesuffix('.git')}", write=True)
                self._json({"objects": [self._lfs_action(item) for item in json.loads(body)["objects"]]})
            case [namespace, name, "resolve", _, *path]:
                self._file(self._repo(kind, f"{namespace}/{name}"), "/".join(path))
            case _:
                raise _HTTPError(404, "no such page")

    def _create(self, wanted: dict[str, Any]) -> None:
        self._check_token(write=True)
        kind, repo_id = wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "tester":
            raise _HTTPError(403, "you have no rights there")
        if (kind, repo_id) in self.hub.repos:
            raise _HTTPError(409, "you already created this repo")
        if kind == "space" and wanted.get("sdk") not in ("static", "gradio", "docker"):
            raise _HTTPError(400, "a space needs an sdk")
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.hub.repos[kind, repo_id] = Repo(private, {".gitattributes": b""})
        self._json({"url": f"{self.hub.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"})

    def _api(self, kind: str, repo_id: str, rest: list[str], body: bytes) -> None:
        repo = self._repo(kind, repo_id, write=bool(rest) and rest[0] in ("preupload", "commit"))
        match rest:
            case [] | ["revision", _]:
                siblings = [_sibling(repo, name) for name in repo.files]
                self._json({"id": repo_id, "sha": repo.sha, "private": repo.private, "tags": [], "siblings": siblings})
            case ["tree", _, *under]:
                prefix = "/".join(under)
                recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
                self._json(_tree(repo, prefix, recursive))
            case ["paths-info", _]:
                query = {key: values for key, values in parse_qs(body.decode()).items()}
                paths = query.get("paths") or json.loads(body)["paths"]
                known = {entry["path"]: entry for entry in _tree(repo, "", True)}
                self._json([known[path] for path in paths if path in known])
            case ["preupload", _]:
                self._json({"files": [
                    {"path": item["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if item["path"].endswith(LARGE) else "regular"}
                    for item in json.loads(body)["files"]
                ]})  # fmt: skip
            case ["commit", _]:
                self._commit(repo, repo_id, [json.loads(line) for line in body.splitlines()])
            case _:
                raise _HTTPError(404, "no such page")

    def _commit(self, repo: Repo, repo_id: str, lines: list[dict[str, Any]]) -> None:
        files, gone = dict[str, bytes](), set[str]()
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _HTTPError(400, f"{value['path']} was never uploaded")
                files[value["path"]] = self.hub.objects[value["oid"]]
                repo.large.add(value["path"])
            elif line["key"] == "deletedFile":
                gone.add(value["path"])
        repo.files = {
            name: content for name, content in {**repo.files, **files}.items() if name not in gone
        }  # all of the commit or nothing
        repo.commits.append(next(line["value"]["summary"] for line in lines if line["key"] == "header"))
        self._json({"commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{repo.sha}", "commitOid": repo.sha})

    def _lfs_action(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["oid"] in self.hub.objects:  # nothing to do: it is there
            return item
        return {**item, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"},
                                    "verify": {"href": f"{self.hub.endpoint}/lfs/verify"}}}  # fmt: skip

    def _file(self, repo: Repo, path: str) -> None:
        if path not in repo.files:
            raise _HTTPError(404, "Entry not found", {"X-Error-Code": "EntryNotFound"})
        content = repo.files[path]
        etag = hashlib.sha256(content).hexdigest() if path in repo.large else _git_oid(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.sha, "Accept-Ranges": "bytes"}
        start, end = 0, len(content)
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), int(last) + 1 if last else len(content)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content)) - 1}/{len(content)}"
        self._send(content[start:end], 206 if "Content-Range" in headers else 200, headers, "application/octet-stream")

    def _repo(self, kind: str, repo_id: str, write: bool = False) -> Repo:
        repo = self.hub.repos.get((kind, repo_id))
        if write or repo is None or repo.private:
            self._check_token(write)
        if repo is None:
            raise _HTTPError(404, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        return repo

    def _check_token(self, write: bool) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (WRITE_TOKEN, READ_TOKEN):
            said = f"Invalid credentials in Authorization header: {self.headers.get('Authorization')}"  # as some servers do
            raise _HTTPError(401, said)
        if write and token == READ_TOKEN:
            raise _HTTPError(403, "this token may only read")

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, headers or {}, "application/json")

    def _send(self, content: bytes, status: int, headers: dict[str, str], kind: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _HTTPError(Exception):
    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.message, self.headers = status, message, headers or {}


def _sibling(repo: Repo, name: str) -> dict[str, Any]:
    content = repo.files[name]
    lfs = {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
    return {
        "rfilename": name,
        "size": len(content),
        "blobId": _git_oid(content),
        **(lfs if name in repo.large else {}),
    }


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree(repo: Repo, prefix: str, recursive: bool) -> list[dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    start = f"{prefix}/" if prefix else ""
    for path, content in repo.files.items():
        if not path.startswith(start):
            continue
        parts = path.removeprefix(start).split("/")
        for depth in range(1, len(parts)):
            folder = start + "/".join(parts[:depth])
            if depth == 1 or recursive:
                entries[folder] = {"type": "directory", "path": folder, "oid": _git_oid(folder.encode()), "size": 0}
        if len(parts) == 1 or recursive:
            entry = {"type": "file", "path": path, "oid": _git_oid(content), "size": len(content)}
            if path in repo.large:
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
            entries[path] = entry
    return list(entries.values())
