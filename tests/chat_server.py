"""Two real HTTP servers for the tests of the chat players: a local model with log-probabilities
(which `transformers serve` does not give), and one that answers with what a test puts in."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Reply = tuple[int, bytes]


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[str]:
    """A server on loopback that answers every POST with ``answer(body)``; yields its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, data = answer(json.loads(body))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(content: str | None, logprobs: Any = None) -> Reply:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, json.dumps(reply).encode()


class LocalModel:
    """Greedy completions with log-probabilities; one request at a time."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []

    def __call__(self, body: dict[str, Any]) -> Reply:
        with self.lock, torch.inference_mode():
            self.requests.append(body)
            return self.generate(body)

    def next(self, ids: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([ids])).logits[0, -1].log_softmax(0)

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def generate(self, body: dict[str, Any]) -> Reply:
        ids, written, steps = self.prompt(body["messages"]), [], []
        for _ in range(body["max_tokens"]):
            scores = self.next(ids + written)
            best = int(scores.argmax())
            top = scores.topk(body.get("top_logprobs", 1))
            entry = self.entry(best, float(scores[best]))
            entry["top_logprobs"] = [
                self.entry(i, p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            ]
            if best == self.tokenizer.eos_token_id:
                break
            steps.append(entry)
            written.append(best)
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        return completion(text, {"content": steps} if body.get("logprobs") else None)

    def entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self.tokenizer.decode([token]), "logprob": logprob, "bytes": None}
