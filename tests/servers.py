"""A small file server on this machine that can also misbehave."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE = 1 << 16


class Server:
    """Serves bytes by path and counts requests.

    Attributes:
        files: path without the slash to content.
        breaks: path to how many of the next transfers end after half of the content.
        slow_s: seconds between two pieces.
        encodings: what was asked for as the content's encoding.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.breaks: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.slow_s = 0.0
        self.encodings: set[str] = set()


@contextmanager
def serving() -> Iterator[Server]:
    """Serve on a free port of 127.0.0.1 until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, found)

        def log_message(self, *_arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Server(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, server: Server) -> None:
    name = handler.path.lstrip("/")
    server.requests[name] += 1
    server.encodings.add(handler.headers.get("Accept-Encoding", ""))
    if name not in server.files:
        handler.send_error(404)
        return
    content = server.files[name]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    broken = server.breaks[name] > 0
    server.breaks[name] -= broken
    try:
        for start in range(0, len(content) // 2 if broken else len(content), PIECE):
            end = min(start + PIECE, len(content) // 2 if broken else len(content))
            handler.wfile.write(content[start:end])
            time.sleep(server.slow_s)
    except (BrokenPipeError, ConnectionResetError):
        pass  # whoever asked was killed
    handler.close_connection = True
