"""A small server on loopback that speaks the hub's protocol, and a command run against it and nothing else."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_stand_in"


class Hub(ThreadingHTTPServer):
    """Keeps what it is sent to someone/picks: repositories, large files by their hash, and the files of commits."""

    daemon_threads = True

    def __init__(self, kind):
        super().__init__(("127.0.0.1", 0), Requests)
        self.kind = kind  # of the repositories: dataset or model, by which their addresses differ
        self.path = {"dataset": "/datasets/someone/picks", "model": "/someone/picks"}[kind]
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.created, self.large, self.files, self.tokens = [], {}, {}, set()


def mode(path):
    return "lfs" if path.endswith(("parquet", "safetensors")) else "regular"


class Requests(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments):
        pass

    def reply(self, status, body=None, **headers):
        content = json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.body()
        self.reply(404)

    def do_PUT(self):
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == self.path.rsplit("/", 1)[1]
        self.server.large[self.path.rsplit("/", 1)[1]] = content
        self.reply(200)

    def do_POST(self):
        body = self.body()
        path = self.path.split("?")[0]
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid credentials"}, **{"X-Error-Message": "Invalid credentials"})
        elif path == "/api/repos/create":
            told = json.loads(body)
            known = told in self.server.created
            self.server.created.append(told)
            assert (told["organization"], told["name"]) == ("someone", "picks")
            self.reply(409 if known else 200, {"url": f"{self.server.url}{self.server.path}"})
        elif path == "/api/validate-yaml":
            assert json.loads(body)["repoType"] == self.server.kind
            assert json.loads(body)["content"].startswith("---\n")
            self.reply(200, {"errors": [], "warnings": []})
        elif path == f"/api/{self.server.kind}s/someone/picks/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": mode(file["path"]), "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.reply(200, {"files": files})
        elif path == f"{self.server.path}.git/info/lfs/objects/batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects})
        elif path == f"/api/{self.server.kind}s/someone/picks/commit/main":
            self.commit([json.loads(line) for line in body.splitlines()])
        else:
            self.reply(404, {"error": path})

    def commit(self, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.large[value["oid"]]
        url = f"{self.server.url}{self.server.path}"
        self.reply(
            200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{url}/commit/{'0' * 40}", "hookOutput": ""}
        )


@contextmanager
def hub_of(kind) -> Iterator[Hub]:
    """Serve repositories of ``kind`` for the time of the ``with``."""
    server = Hub(kind)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_against(endpoint, command, home, token=TOKEN) -> subprocess.CompletedProcess:
    """Run the command as a user would, the hub's address in the environment and every other one out of reach."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # the stand-in speaks the older protocol for large files
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    code = "import sys; from rlhf_images.cli import main; main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, check=False
    )
