"""Every line of what keeps the page safe, each tried with what an attacker sends."""

import hmac
import inspect
import json
import re
import socket
import sys
import uuid
from pathlib import Path

import pytest
from rounds import SECRET, Client, made_round, served

from rlhf_images.errors import BadInput
from rlhf_images.labelling import security
from rlhf_images.labelling.app import PAGES
from rlhf_images.labelling.security import HEADERS, MAX_BODY, Door
from rlhf_images.labelling.server import bound
from rlhf_images.preferences.events import AGAIN

POLICY = (
    "default-src 'none'; img-src 'self' blob:; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Both servers, for all tests: one for this machine, one that others can reach."""
    pairs = [made_round(tmp_path_factory.mktemp("round") / f"pairs-of-{SECRET}") for _ in range(2)]
    with served(pairs[0]) as own, served(pairs[1], host="0.0.0.0", token=TOKEN) as open_:
        yield own, open_


@pytest.fixture
def server(running):
    running[0].seen = len(running[0].pairs.store.events())
    return running[0]


@pytest.fixture
def guarded(running):
    running[1].seen = len(running[1].pairs.store.events())
    return running[1]


def vote(client: Client, **changes) -> list[dict]:
    return [{"id": str(uuid.uuid4()), "type": "vote", "pair": "000000", "choice": "left"} | changes]


def stored(server) -> list[str]:
    """Return the ids of the events that the test has brought in."""
    return [event.id for event in server.pairs.store.events()[server.seen :]]


# The Host: is it we who are asked?


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8710",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.1\\.evil.example",
        "[::1].evil.example",
        "127.0.0.1:80:80",
        "127.0.0.1,evil.example",
        "0x7f000001",
        "2130706433",
        "127.1",
        "192.168.1.7",
        "localhost.",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/next?annotator=ann", "/page/label.js"])
def test_a_host_that_was_rebound_to_us_is_refused(server, host, path):
    answer = server.client().get(path, host=host)
    assert answer.status in (400, 421)  # 400: not even HTTP/1.1
    assert b"fox" not in answer.body


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:1", "[::1]:{port}", "127.0.0.1"])
def test_names_of_this_machine_are_served(server, host):
    assert server.client().get("/", host=host.format(port=server.port)).status == 200


def test_two_hosts_in_one_request_are_refused(server):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /api/next?annotator=a HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n")
        assert raw.recv(4096).split()[1] in (b"400", b"421")


def test_with_a_token_any_address_is_a_name_but_no_foreign_name_is(guarded):
    client = guarded.client()
    for host, status in {
        "10.0.0.5:8710": 200,
        socket.gethostname(): 200,
        "evil.example": 421,
        "10.0.0.5.a.b": 421,
    }.items():
        assert client.get("/api/me", host=host, authorization=f"Bearer {TOKEN}").status == status


# Token: who asks


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", ""])
def test_no_door_opens_to_other_machines_without_a_token(host):
    with pytest.raises(ValueError, match="needs a token"):
        Door(host, 8710)


@pytest.mark.parametrize("path", [*PAGES, "/page/label.js", "/api/next?annotator=a", "/api/stats", "/i/" + "0" * 64])
@pytest.mark.parametrize(
    "known",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"rlhf_images_0={TOKEN}"},
        {"cookie": "rlhf_images_{port}="},
        {"cookie": f"rlhf_images_{{port}}={TOKEN}"},
    ],
)
def test_without_the_token_nothing_is_told(guarded, path, known):
    known = {name: value.format(port=guarded.port) for name, value in known.items()}
    answer = guarded.client().get(path, **known)
    assert answer.status == 401
    assert answer.json.keys() == {"error"}
    assert "set-cookie" not in answer.headers


def test_without_the_token_nothing_is_written(guarded):
    client = guarded.client()
    assert client.post(vote(client)).status == 401
    assert client.send("POST", f"/api/events?token={TOKEN}", json.dumps(vote(client)).encode()).status == 401
    assert stored(guarded) == []


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "%00", "é"])
def test_a_wrong_token_is_not_exchanged(guarded, token):
    from urllib.parse import quote

    answer = guarded.client().get(f"/?token={quote(token)}")
    assert answer.status == 401
    assert "set-cookie" not in answer.headers


def test_the_token_of_the_address_is_exchanged_for_a_strict_cookie_that_does_not_tell_it(guarded):
    client = guarded.client()
    answer = client.get(f"/?token={TOKEN}")
    assert answer.status == 200
    cookie, *attributes = (part.strip() for part in answer.headers["set-cookie"].split(";"))
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert TOKEN not in cookie
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert client.get("/api/next?annotator=ann", cookie=cookie).status == 200
    posted = client.post(vote(client), cookie=cookie)
    assert posted.status == 200, posted.body
    assert client.get("/api/me", cookie=f"other=1; {cookie}; more=2").status == 200


def test_tokens_and_cookies_are_compared_in_a_time_that_tells_nothing(guarded, monkeypatch):
    """Whatever is shown goes through the one comparison that does not stop at the first wrong character."""
    compared: list[bytes] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append(one) or compare(one, other))
    client = guarded.client()
    cookie = f"rlhf_images_{guarded.port}"
    assert client.get("/?token=guess-1").status == 401
    assert client.get("/api/me", cookie=f"{cookie}=guess-2").status == 401
    assert client.get("/api/me", authorization="Bearer guess-3").status == 401
    assert {b"guess-1", b"guess-2", b"guess-3"} <= set(compared)
    source = inspect.getsource(security)
    assert not re.search(r"[=!]= *\S*(token|proof)|(token|proof)\S* *[=!]=", source)


def test_the_api_takes_no_token_from_an_address(guarded):
    assert guarded.client().get(f"/api/next?annotator=a&token={TOKEN}").status == 401


def test_the_cookie_of_one_port_is_not_that_of_another():
    assert Door("0.0.0.0", 1, TOKEN).cookie != Door("0.0.0.0", 2, TOKEN).cookie
    assert Door("0.0.0.0", 1, TOKEN).proof == Door("0.0.0.0", 1, TOKEN).proof != Door("0.0.0.0", 1, TOKEN + "x").proof


def test_only_loopback_is_bound(pairs):
    with served(pairs) as server:
        others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
        for address in others - {"127.0.0.1", "127.0.1.1"}:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((address, server.port), 2)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("no.such.host.invalid", 0), ("203.0.113.9", 0)])
def test_an_address_that_cannot_be_used_is_told_in_a_line(host, port):
    with pytest.raises(BadInput, match=r"another --port") as told:
        bound(host, port)
    assert "\n" not in str(told.value)


def test_a_port_in_use_is_told_in_a_line(server):
    with pytest.raises(BadInput, match="in use"):
        bound("127.0.0.1", server.port)


# Origin and kind: what a foreign page in the annotator's own browser can send


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://localhost:{port}"},
        {"origin": "file://"},
        {"origin": "http://127.0.0.1:{port}.evil.example"},
        {"origin": "http://evil.example@127.0.0.1:{port}"},
        {"origin": "javascript://127.0.0.1:{port}"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
def test_a_foreign_page_cannot_write_or_have_pairs_handed_out(server, headers):
    headers = {name: value.format(port=server.port) for name, value in headers.items()}
    client = server.client()
    assert client.post(vote(client), **headers).status == 403
    assert client.get("/api/next?annotator=ann", **headers).status == 403
    assert stored(server) == []


def test_a_link_from_elsewhere_opens_the_page(server):
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert server.client().get("/", **headers).status == 200


def test_our_own_page_and_a_script_without_a_page_can_write(server):
    client = server.client()
    ours = {"origin": server.address, "sec_fetch_site": "same-origin"}
    assert client.post(vote(client), **ours).status == 200
    assert client.post(vote(client)).status == 200
    assert len(stored(server)) == 2


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx"],
)
def test_what_a_form_can_send_is_not_taken(server, kind):
    client = server.client()
    assert client.post(vote(client), content_type=kind).status == 415
    assert stored(server) == []


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
def test_nobody_is_allowed_across_origins(server, method):
    foreign = {"origin": "https://evil.example", "access_control_request_method": "POST"}
    answer = server.client().send(method, "/api/events", **foreign)
    assert answer.status in (403, 405, 415)
    for name in [*answer.headers, *server.client().get("/").headers]:
        assert not name.startswith("access-control-")


# Body: how much


@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "9" * 30, "-1", "1e3", "0x10", "+5"])
def test_a_body_that_says_it_is_too_long_is_not_read(server, length):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        head = "POST /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
        raw.sendall(f"{head}{length}\r\n\r\n[".encode())
        assert raw.recv(4096).split()[1] in (b"400", b"413")


def test_a_body_in_chunks_is_counted(server):
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(
            b"POST /api/events?annotator=a HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        try:
            while sent < 8 * MAX_BODY:
                raw.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
            answer = raw.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            return  # cut off in the middle: refused as well
        assert answer.split()[1] == b"413"


def test_a_body_that_does_not_come_is_given_up(server, monkeypatch):
    monkeypatch.setattr(security, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(
            b"POST /api/events?annotator=a HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n["
        )
        assert raw.recv(4096).split()[1] == b"408"
    assert stored(server) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe[\x00]\x00",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"NaN",
        b"[Infinity]",
        b'[{"id": NaN}]',
        b"9" * 100_000,
        b'"\\ud800"',
        b"null",
        b"{}",
        b"[1]",
        b"[null]",
        json.dumps([{}] * 501).encode(),
    ],
    ids=range(15),
)
def test_a_body_that_is_no_list_of_events_is_refused_in_a_line(server, body):
    answer = server.client().send("POST", "/api/events?annotator=a", body, content_type="application/json")
    assert answer.status == 400
    assert answer.json.keys() == {"error"}
    assert stored(server) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": None},
        {"id": 7},
        {"id": "x" * 201},
        {"id": "a\0b"},
        {"id": "\ud800"},
        {"type": "delete"},
        {"type": ["vote"]},
        {"pair": "000000' OR 1=1 --"},
        {"pair": "../../etc/passwd"},
        {"pair": f"000000{AGAIN}{AGAIN}"},
        {"pair": ["000000"]},
        {"choice": "neither"},
        {"choice": None},
        {"choice": {"$ne": 1}},
        {"strength": 3},
        {"strength": True},
        {"strength": 10**30},
        {"ms": -1},
        {"ms": 10**30},
        {"ms": "1432"},
        {"text": "x" * 4001},
        {"tags": "anatomy"},
        {"tags": [1]},
        {"tags": ["x"] * 17},
        {"left": "0" * 64},
        {"left": ["x"]},
    ],
    ids=str,
)
def test_an_event_that_cannot_be_is_refused_with_all_that_came_with_it(server, changes):
    client = server.client()
    answer = client.post([*vote(client), *vote(client, **changes)])
    assert answer.status == 400, answer.body
    assert "\n" not in answer.json["error"]
    assert SECRET not in answer.json["error"]
    assert stored(server) == []


@pytest.mark.parametrize("name", ["", "%20", "a%00b", "x" * 201, "a%0d%0aSet-Cookie:%20x=1", "%1b[2J"])
def test_an_annotator_without_a_proper_name_is_refused(server, name):
    client = server.client()
    assert client.get(f"/api/next?annotator={name}").status == 400
    assert client.get(f"/?annotator={name}").status == 400


def test_a_name_is_data_wherever_it_goes(server):
    name = "'; DROP TABLE events; -- <script>alert(1)</script> 猫"
    client = server.client(name)
    assert client.post(vote(client)).status == 200
    assert [event.annotator for event in server.pairs.store.events(name)] == [name]
    assert client.next(1)["done"] == 1


# Pictures and files: by id only


@pytest.mark.parametrize(
    "path",
    [
        "/i/../pairs.jsonl",
        "/i/..%2fpairs.jsonl",
        "/i/%2e%2e%2fpairs.jsonl",
        "/i/%252e%252e%252fpairs.jsonl",
        "/i/..%5cpairs.jsonl",
        "/i/....//pairs.jsonl",
        "/i//etc/passwd",
        "/i/%2fetc%2fpasswd",
        "/i/file:%2f%2f%2fetc%2fpasswd",
        "/i/http:%2f%2f127.0.0.1%2f",
        "/i/{id}.png",
        "/i/{id}%00.png",
        "/i/{id}/",
        "/i/{upper}",
        "/i/%c0%ae%c0%ae/",
        "/i/" + "0" * 64,
        "/i/" + "x" * 5000,
        "/page/../security.py",
        "/page/..%2fsecurity.py",
        "/page/%2e%2e/app.py",
        "/page/__init__.py",
        "/page/",
        "/votes.db",
        "/pairs.jsonl",
        "/.env",
    ],
)
def test_nothing_but_pictures_and_the_page_is_served(server, path):
    known = next(iter(server.pairs.pictures))
    answer = server.client().get(path.format(id=known, upper=known.upper()))
    assert answer.status == 404
    assert b"root:" not in answer.body
    assert b"fox" not in answer.body


def test_a_link_out_of_the_folder_is_no_picture(tmp_path):
    pairs = made_round(tmp_path / "pairs", 3)
    outside = tmp_path / "outside"
    outside.mkdir()
    picture, other, third = list(pairs.pictures)[:3]
    for name in (picture, other):
        (pairs.folder / "images" / f"{name}.png").rename(outside / f"{name}.png")
    (pairs.folder / "images" / f"{picture}.png").symlink_to(outside / f"{picture}.png")
    (pairs.folder / "images" / f"{other}.png").symlink_to("/etc/passwd")
    (pairs.folder / "images" / f"{third}.png").unlink()
    (pairs.folder / "images" / f"{third}.png").symlink_to(f"{third}.png")  # to itself
    with served(pairs) as server:
        for name in (picture, other, third):
            assert server.client().get(f"/i/{name}").status == 404
        assert server.client().get(f"/i/{list(pairs.pictures)[3]}").status == 200


def test_a_folder_of_pictures_that_is_a_link_outwards_serves_none(tmp_path):
    pairs = made_round(tmp_path / "pairs", 1)
    (pairs.folder / "images").rename(tmp_path / "elsewhere")
    (pairs.folder / "images").symlink_to(tmp_path / "elsewhere")
    with served(pairs) as server:
        assert server.client().get(f"/i/{next(iter(pairs.pictures))}").status == 404


def test_a_manifest_that_names_other_files_gets_none(tmp_path):
    pairs = made_round(tmp_path / "pairs", 1)
    (tmp_path / "secret.png").write_bytes(b"secret")
    lines = (pairs.folder / "pictures.jsonl").read_text().splitlines()
    wild = json.loads(lines[0])
    wild["id"] = "../../secret"
    (pairs.folder / "pictures.jsonl").write_text("\n".join([json.dumps(wild), *lines[1:]]))
    from rlhf_images.preferences import Pairs

    with served(Pairs(pairs.folder)) as server:
        assert server.client().get("/i/..%2f..%2fsecret").status == 404


# What goes out


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/page/label.js", 200), ("/api/me", 200), ("/nothing", 404), ("/api/events", 405), ("/i/x", 404)],
)
def test_every_answer_carries_the_policy(server, path, status):
    answer = server.client().get(path)
    assert answer.status == status
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "server" not in answer.headers


def test_a_refusal_and_a_failure_carry_the_policy_too(server, monkeypatch):
    refused = server.client().get("/", host="evil.example")
    monkeypatch.setattr(server.pairs.store, "events", lambda *_: 1 / 0)
    failed = server.client().get("/api/history?annotator=ann")
    assert (refused.status, failed.status) == (421, 500)
    assert b"ZeroDivision" not in failed.body
    for answer in (refused, failed):
        assert HEADERS.items() <= answer.headers.items()


def test_the_page_has_no_way_to_read_text_as_html():
    page = Path(__file__).parents[2] / "rlhf_images/labelling/page"
    for file in page.glob("*.js"):
        text = file.read_text()
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
        ):
            assert way not in text, (file.name, way)
    for file in page.glob("*.html"):
        text = file.read_text()
        assert " style=" not in text
        assert " onclick=" not in text
        assert "http://" not in text
        assert "https://" not in text


def test_guidelines_are_rendered_without_html_scripts_or_pictures(server):
    attack = (
        "# hi\n<script>alert(1)</script>\n\n<img src=x onerror=alert(1)>\n\n[a](javascript:alert(1))\n\n"
        "![x](http://evil.example/x.png)\n\n[b](data:text/html;base64,PHNjcmlwdD4=)\n\n`</article><script>`"
    )
    (server.pairs.folder / "guidelines.md").write_text(attack)
    body = server.client().get("/guide").body.decode().split("<article")[1].split("</article>")[0]
    assert "<h1>hi</h1>" in body
    for bad in ("<script", "<img", 'href="javascript', 'href="data:', "<iframe"):
        assert bad not in body


def test_guidelines_are_not_written_over_another_persons_words(server):
    client = server.client()
    found = client.get("/api/guide").json
    kind = {"content_type": "application/json"}
    first = client.send("POST", "/api/guide", json.dumps(found | {"text": "one"}).encode(), **kind)
    late = client.send("POST", "/api/guide", json.dumps(found | {"text": "two"}).encode(), **kind)
    long = {"text": "x" * 50_001, "version": first.json["version"]}
    assert (first.status, late.status) == (200, 409)
    assert client.send("POST", "/api/guide", json.dumps(long).encode(), **kind).status == 400
    assert client.send("POST", "/api/guide", b'{"text": 1}', **kind).status == 400
    assert (server.pairs.folder / "guidelines.md").read_text() == "one"


def test_no_url_is_ever_fetched(tmp_path):
    url = "http://198.51.100.7/x.png"
    pairs = made_round(tmp_path / "pairs", 2, prompts=(url, "![x](http://198.51.100.7/y.png)"))
    (pairs.folder / "guidelines.md").write_text(f"![x]({url}) <{url}>")
    asked: list[str] | None = []

    def heard(name: str, what: tuple) -> None:
        if asked is not None and name in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            asked.append(str(what[1] if name == "socket.connect" else what[0]))

    sys.addaudithook(heard)  # there is no way to take it away; it stops listening below
    with served(pairs) as server:
        client = server.client()
        assert client.next(2)["pairs"]
        client.get("/guide"), client.get("/i/" + url.replace("/", "%2f"))
        client.post([{"id": "1", "type": "comment", "pair": "000000", "text": url}])
        client.get("/api/history?annotator=ann"), client.get(f"/api/next?annotator={url}"), client.get(url)
        heard_of, asked = set(asked), None
    assert heard_of == {"127.0.0.1", f"('127.0.0.1', {server.port})"}
