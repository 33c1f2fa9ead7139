"""A server of completions that answers with a tiny model, as lm-eval's class for servers asks it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.core import manifest


class Completions(http.server.BaseHTTPRequestHandler):
    """/v1/models and /v1/completions of tiny models: token ids in, text or echoed log-probabilities out."""

    protocol_version = "HTTP/1.1"
    models: dict[str, Any]  # by the name that they are served under
    tokenizer: Any
    broken = False
    seen: list[dict[str, Any]]

    def log_message(self, *_: Any) -> None:
        pass

    def give(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.give({"data": [{"id": name} for name in self.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        if self.broken:
            self.give({"error": "out of memory"}, 500)
            return
        choices = [self.choice(n, body, ids) for n, ids in enumerate(body["prompt"])]
        self.give({"model": body["model"], "choices": choices})

    def choice(self, index: int, body: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        import torch

        model = self.models[body["model"]]
        with torch.no_grad():
            if body.get("echo"):
                scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
                given = [None, *(float(scores[at - 1, token]) for at, token in enumerate(ids) if at)]
                best = [None, *({"best": float(row.max())} for row in scores[:-1])]
                return {"index": index, "logprobs": {"token_logprobs": [*given, 0.0], "top_logprobs": [*best, {}]}}
            limit = {"max_new_tokens": body["max_tokens"], "do_sample": False}
            tokens = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **limit)[0]
        text = self.tokenizer.decode(tokens[len(ids) :], skip_special_tokens=True)
        return {"index": index, "text": text.split("<|end|>")[0]}


@contextmanager
def serve(models: dict[str, Path]) -> Iterator[tuple[type[Completions], str]]:
    """(the handler's class, the address up to /v1) of a server that offers these models, by name."""
    loaded = {name: manifest.load_model(folder) for name, folder in models.items()}
    tokenizer = manifest.load_tokenizer(next(iter(models.values())))
    handler = type("Tiny", (Completions,), {"seen": [], "models": loaded, "tokenizer": tokenizer})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
