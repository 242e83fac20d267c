"""A small OpenAI-compatible server: of a script or, as a program that is given a folder, of a model."""

import base64
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Reply = Callable[[list[Image.Image], str, dict[str, Any]], Any]
"""Pictures, text and the whole request to an answer: chances by word, ``(status, body)``, or a word."""


class Handler(BaseHTTPRequestHandler):
    reply: Reply
    seen: list[dict[str, Any]]

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append({"path": self.path, "key": self.headers["authorization"], **asked})
        pictures, texts = [], []
        for part in asked["messages"][0]["content"]:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                head, _, data = part["image_url"]["url"].partition(",")
                assert head == "data:image/png;base64"
                pictures.append(Image.open(io.BytesIO(base64.b64decode(data))))
        told = self.reply(pictures, "".join(texts), asked)
        status, body = told if isinstance(told, tuple) else (200, answer(told))
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer(told: str | dict[str, float]) -> dict[str, Any]:
    """Return the body of an answer: of a word, or of the log-chances of several."""
    if isinstance(told, str):
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": told}, "logprobs": None}]}
    top = [{"token": word, "logprob": chance} for word, chance in told.items()]
    message = {"role": "assistant", "content": max(told, key=lambda word: told[word])}
    return {"choices": [{"index": 0, "message": message, "logprobs": {"content": [{"top_logprobs": top}]}}]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


@contextmanager
def chat_server(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve until the end of the ``with``, and give the address and the list of what was asked."""
    handler = type("Bound", (Handler,), {"reply": staticmethod(reply), "seen": []})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", handler.seen
        finally:
            server.shutdown()
            thread.join(20)


def of_model(folder: str) -> Reply:
    """Return the log-chances of every word of a model's vocabulary."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()

    def reply(pictures: list[Image.Image], text: str, asked: dict[str, Any]) -> dict[str, float]:
        content = [{"type": "image", "image": picture.convert("RGB")} for picture in pictures]
        message = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        with torch.no_grad():
            logits = model(**processor.apply_chat_template([message], **options)).logits[0, -1]
        words = [processor.tokenizer.decode([token]) for token in range(len(logits))]
        return {f"{word}": chance for word, chance in zip(words, logits.log_softmax(0).tolist(), strict=True)}

    return reply


if __name__ == "__main__":
    with chat_server(of_model(sys.argv[1])) as (url, _):
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        sys.stdin.read()  # until the one who started it goes
