"""A gateway that loses nothing in a restart: a web server whose answers take their time.

    lockkeeper run -- python3 examples/python/gateway.py
    curl --data hello http://127.0.0.1:8080/ada & lockkeeper restart --wait

It speaks all of docs/contract.md with the standard library alone. PORT is where it listens (0: at
any free port, which its status tells), THINK_SECONDS is how long an answer takes.
"""

import json
import os
import queue
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

THINK_SECONDS = float(os.environ.get("THINK_SECONDS", "2"))

in_flight = {}  # what was accepted and is not answered, by the thread that does it
phase = None  # of the drain
told = threading.Lock()  # so that what is told is told in its order


def notify(*lines):
    """Tells the supervisor; without one, nobody."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto("\n".join(lines).encode(), path)


def tell():
    """How much is in flight, and how far the drain is."""
    names = list(in_flight.values())
    lines = [f"STATUS=port {server.server_port}, {len(names)} in flight"]
    if phase:
        drain = {"phase": phase, "left": {"requests": len(names)}, "blockers": names[:8]}
        lines.append("X_LOCKKEEPER_DRAIN=" + json.dumps(drain))
    notify(*lines)


class Conversation(BaseHTTPRequestHandler):
    timeout = 10  # a client that says nothing does not hold up a drain

    def do_POST(self):
        me = threading.get_ident()
        with told:
            in_flight[me] = f"POST {self.path}"
            tell()
        try:
            said = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(THINK_SECONDS)
            answer = f"{os.getpid()}: ".encode() + said
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        finally:
            with told:
                del in_flight[me]
                tell()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` waits for those that answer


leave = queue.SimpleQueue()  # the one queue that a signal handler may put something into
signal.signal(signal.SIGTERM, lambda *_: leave.put(0))  # stop
signal.signal(signal.SIGUSR1, lambda *_: leave.put(75))  # restart: a fresh process, please

server = Server(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Conversation)
threading.Thread(target=server.serve_forever, daemon=True).start()
notify("READY=1")
with told:
    tell()

code = leave.get()
with told:
    phase = "finish"
    tell()
server.shutdown()  # nothing new
server.server_close()  # what was accepted
raise SystemExit(code)
