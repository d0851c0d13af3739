"""A chat server in a process of its own that fails as a script says: `python -m tests.teacher_server`.

It prints its port, then answers POST /v1/chat/completions. POST /script sets what it does: ``faults``
maps a word of the prompt to the faults of the first requests with it, in order; no answer leaves before
``gather`` requests were in flight at once, nor before ``delay`` seconds; from the answer number
``hold_after`` on, all are held. GET /stats tells what was asked, and starts the counts anew.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROMPT_TOKENS, ANSWER_TOKENS = 100, 10
NOTHING: dict[str, Any] = {"asked": [], "keys": [], "peak": 0, "answered": 0}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.change = threading.Condition()
        self.script: dict[str, Any] = {}
        self.stats: dict[str, Any] = json.loads(json.dumps(NOTHING))
        self.in_flight = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        with self.server.change:
            stats, self.server.stats = self.server.stats, json.loads(json.dumps(NOTHING))
        self.send(200, stats)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/script":
            with self.server.change:
                self.server.script = body
                self.server.change.notify_all()
            self.send(200, {})
            return
        prompt = body["messages"][-1]["content"]
        fault = self.arrive(body, prompt)
        if fault:
            self.fail(fault)
        else:
            self.send(200, answer(f"Seen:\n  {prompt.splitlines()[0]} "))

    def arrive(self, body: dict[str, Any], prompt: str) -> str:
        """Count the request, wait as the script says, and return the fault that is due."""
        server = self.server
        with server.change:
            script, stats = server.script, server.stats
            stats["asked"].append(body)
            stats["keys"].append(self.headers["authorization"])
            server.in_flight += 1
            stats["peak"] = max(stats["peak"], server.in_flight)
            server.change.notify_all()
            faults = next((f for word, f in script.get("faults", {}).items() if word in prompt), [])
            fault = faults.pop(0) if faults else ""
            if not server.change.wait_for(lambda: stats["peak"] >= script.get("gather", 0), timeout=10):
                script["gather"] = 0  # the test fails on the peak: do not wait for every request
            server.change.wait_for(
                lambda: stats["answered"] < script.get("hold_after", 1e9) or server.script is not script
            )
            stats["answered"] += 1
        time.sleep(script.get("delay", 0))
        with server.change:
            # Before the answer: the client's next request may be here before this thread goes on.
            server.in_flight -= 1
        return str(fault)

    def fail(self, fault: str) -> None:
        kind, _, value = fault.partition(" ")
        if kind == "cut":
            data = json.dumps(answer("never whole")).encode()
            self.head(200, len(data))
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        elif kind == "slow":
            time.sleep(float(value))
        elif kind == "drip":  # no pause is long, the whole is
            self.head(200, 10_000)
            for _ in range(int(float(value) * 10)):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif kind == "body":
            self.head(200, len(value.encode()))
            self.wfile.write(value.encode())
        elif kind == "text":
            self.send(200, answer(value))
        elif kind == "null":
            self.send(200, answer(None))
        elif kind == "later":
            self.send(429, {"error": {"message": "slow down"}}, {"retry-after": value})
        elif kind == "date":
            self.send(503, {}, {"retry-after": formatdate(time.time() + float(value), usegmt=True)})
        else:
            self.send(int(kind), {"error": {"message": f"scripted {kind}"}})

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.head(status, len(data), headers)
        self.wfile.write(data)

    def head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(length))
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client was killed, or gave up
            self.close_connection = True


def answer(content: str | None) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        ],
        "usage": {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": ANSWER_TOKENS,
            "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
        },
    }


if __name__ == "__main__":
    running = Server()
    print(running.server_port, flush=True)
    running.serve_forever()
