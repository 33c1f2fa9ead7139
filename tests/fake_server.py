"""An OpenAI-compatible server on 127.0.0.1 that answers by a function and can fail in the ways that real ones do."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

KEY = "sk-very-secret-0123456789"


class Server(http.server.ThreadingHTTPServer):
    """An OpenAI-compatible server. `faults` are taken by the next requests, one each; `speak` writes the texts."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, speak: Callable[[str, dict], dict] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.speak = speak or echo
        self.faults: list[Callable[[Handler], None]] = []
        self.always: Callable[[Handler], None] | None = None
        self.seen: list[tuple[str, dict, float]] = []  # path, body, when
        self.keys: list[str | None] = []
        self.models, self.served, self.raw, self.key = ["tiny"], "tiny-1", True, None
        self.delay, self.running, self.most = 0.0, 0, 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def asked(self) -> int:
        return len(self.seen)

    def handle_error(self, *_: Any) -> None:  # the client hung up: that is part of some tests
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def give(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def complain(self, status: int, message: str) -> None:
        self.give({"error": {"message": message, "type": "invalid_request_error"}}, status)

    def refused(self) -> bool:
        given = self.headers.get("Authorization")
        self.server.keys.append(given)
        if self.server.key and given != f"Bearer {self.server.key}":
            self.complain(401, f"Incorrect API key provided: {(given or '').removeprefix('Bearer ')}")
            return True
        return False

    def do_GET(self) -> None:
        if not self.refused():
            self.give({"object": "list", "data": [{"id": m, "max_model_len": 512} for m in self.server.models]})

    def do_POST(self) -> None:
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.removeprefix("/v1/")
        with server.lock:
            server.seen.append((path, body, time.monotonic()))
            server.running += 1
            server.most = max(server.most, server.running)
            fault = server.faults.pop(0) if server.faults else server.always
        try:
            time.sleep(server.delay)
            if self.refused():
                return
            if fault:
                fault(self)
                return
            if body["model"] not in server.models or (path == "completions" and not server.raw):
                self.complain(404, "Not Found")
                return
            choice = server.speak(path, body)
            if "complaint" in choice:
                self.complain(*choice["complaint"])
                return
            usage = {"prompt_tokens": 7, "completion_tokens": choice.pop("n", 3)}
            self.give({"model": server.served, "choices": [choice], "usage": usage})
        finally:
            with server.lock:
                server.running -= 1


def echo(path: str, body: dict) -> dict:
    """What was asked, and with which seed."""
    if path == "completions":
        return {"text": f"<{body['prompt']}>", "finish_reason": "stop"}
    return {
        "message": {"role": "assistant", "content": f"<{body['messages'][-1]['content']}|{body.get('seed')}>"},
        "finish_reason": "stop",
    }


def says(text: str | None, finish_reason: str = "stop", **more: Any) -> Callable[[str, dict], dict]:
    def speak(path: str, body: dict) -> dict:
        words = {"text": text} if path == "completions" else {"message": {"role": "assistant", "content": text}}
        return {**words, "finish_reason": finish_reason, **more}

    return speak


# Faults
def status(code: int, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.give({"error": {"message": "busy"}}, code, **headers)


def slow(handler: Handler) -> None:
    time.sleep(1.0)
    handler.give({})


def cut_connection(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def truncated_json(handler: Handler) -> None:
    handler.give(b'{"choices": [{"message": {"content": "half')


def html_page(handler: Handler) -> None:
    handler.give(b"<!doctype html><html><body><h1>Welcome to nginx</h1></body></html>", Content_Type="text/html")


def answer(content: Any, code: int = 200) -> Callable[[Handler], None]:
    return lambda handler: handler.give(content, code)
