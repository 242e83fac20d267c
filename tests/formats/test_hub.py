"""Pushing to the hub: against a small server on loopback that speaks the hub's protocol, never the network."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pairs_for_tests as tool
import pytest

from rlhf_images.cli import run
from rlhf_images.preferences import Event, PreferencePair

TOKEN = "hf_stand_in"


class Hub(ThreadingHTTPServer):
    """Keeps what it is sent: repositories, large files by their hash, and the files of commits."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.created, self.large, self.files, self.tokens = [], {}, {}, set()


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
            self.reply(
                409 if known else 200, {"url": f"{self.server.url}/datasets/{told['organization']}/{told['name']}"}
            )
        elif path == "/api/validate-yaml":
            assert "task_categories:" in json.loads(body)["content"]
            self.reply(200, {"errors": [], "warnings": []})
        elif path == "/api/datasets/someone/picks/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith("parquet") else "regular",
                 "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            self.reply(200, {"files": files})
        elif path == "/datasets/someone/picks.git/info/lfs/objects/batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects})
        elif path == "/api/datasets/someone/picks/commit/main":
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
        url = f"{self.server.url}/datasets/someone/picks"
        self.reply(
            200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{url}/commit/{'0' * 40}", "hookOutput": ""}
        )


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path):
    cast = [Event("1", "vote", "000000", "ann@example.org", "left"), Event("2", "vote", "000001", "bob", "tie")]
    pairs = [PreferencePair("000000", "a cat", "0", "1"), PreferencePair("000001", "a dog", "2", "3")]
    return tool.made(tmp_path / "pairs", pairs, cast).folder


def pushed(folder, out, endpoint, *more, token=TOKEN):
    """Run the command as a user would, the hub's address in the environment and every other one out of reach."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HF_HOME": str(out.parent / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # the stand-in speaks the older protocol for large files
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    command = ["export-pairs", "--format", "trl", str(folder), str(out), "--push-to-hub", "someone/picks", *more]
    code = "import sys; from rlhf_images.cli import main; main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, check=False
    )


def contents(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_hub_gets_the_very_files_in_a_private_data_set(hub, folder, tmp_path):
    ended = pushed(folder, tmp_path / "out", hub.url, "--names", "show")
    assert ended.returncode == 0, ended.stderr
    assert f"pushed to {hub.url}/datasets/someone/picks" in ended.stdout
    assert hub.files == contents(tmp_path / "out")
    assert set(hub.files) == {"README.md", "data/train-00000.parquet", "ties/ties-00000.parquet"}
    assert b"ann@example.org" in b"".join(hub.files.values())
    (created,) = hub.created
    assert (created["name"], created["organization"], created["type"]) == ("picks", "someone", "dataset")
    assert created["visibility"] == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_hub_that_refuses_leaves_the_export_whole_and_says_how_to_go_on(hub, folder, tmp_path):
    ended = pushed(folder, tmp_path / "out", hub.url, token="hf_wrong")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("rlhf-images: someone/picks: could not be pushed (")
    assert f"hf upload someone/picks {tmp_path / 'out'} --repo-type dataset" in ended.stderr
    assert not hub.files
    ours = contents(tmp_path / "out")
    assert set(ours) == {"README.md", "data/train-00000.parquet", "ties/ties-00000.parquet"}
    assert b"ann@example.org" not in b"".join(ours.values())  # to be pushed: people are numbered unless asked otherwise
    assert b"annotator-1" in b"".join(ours.values())


@pytest.mark.parametrize("repository", ["someone/picks", "no/such/name", ".."])
def test_what_cannot_be_pushed_ends_in_one_line(folder, tmp_path, capsys, repository):
    """The tests run with the hub's client offline; an impossible name is refused before that."""
    command = ["export-pairs", "--format", "trl", str(folder), str(tmp_path / "out"), "--push-to-hub", repository]
    assert run(command) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"rlhf-images: {repository}: could not be pushed (")
    assert told.count("\n") == 1
    assert (tmp_path / "out/data/train-00000.parquet").is_file()
