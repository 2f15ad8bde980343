#!/usr/bin/python3
"""Stands in for `imsg rpc`: the same methods over a folder in the place of the Messages database.

    imsg.py FOLDER

`FOLDER/rows` holds a message a line, as JSON; who appends one has sent it. `FOLDER/pids` takes the
pid of every process that was started, `FOLDER/calls` every request, `FOLDER/ended` a line when one
ends because its stdin was closed. A file in `FOLDER/do` is an order; the first who sees it removes
it, unless its name begins with `always-`:

    die            ends at once
    die-at-send    ends after it has got a send, before it does anything
    die-after-send ends after the message is sent, before it says so
    hang           reads on, and answers nothing more
    ignore-eof     does not end when its stdin is closed, nor by SIGTERM, and has a child like that
    noise          says things that are no JSON-RPC, and half a line
    long           says a line of 2 MiB
    flood          writes 4 MiB to stderr
    twice          brings each message twice
    overflow       ends the subscription as if we were too slow
    watch-error    ends the subscription with an error
    hold           keeps answers back until there are three, and gives them in reverse
    slow-send      a send takes half a second
    refuse-CODE    answers the next send with this error
"""

import json, os, signal, subprocess, sys, threading, time

folder = sys.argv[1]
lock = threading.RLock()
subscriptions = {}
known = []
read_to = 0
held = None
hung = False


def path(name):
    return os.path.join(folder, name)


def append(name, line):
    with open(path(name), "a") as file:
        file.write(line + "\n")


def ordered(order):
    if os.path.exists(path("do/always-" + order)):
        return True
    try:
        os.unlink(path("do/" + order))
        return True
    except FileNotFoundError:
        return False


def rows():
    """All rows; only what was appended since the last look is read."""
    global read_to
    with lock:
        try:
            with open(path("rows"), "rb") as file:
                file.seek(read_to)
                more = file.read()
        except FileNotFoundError:
            return known
        more = more[: more.rfind(b"\n") + 1]
        read_to += len(more)
        for line in more.splitlines():
            known.append(dict(json.loads(line), id=len(known) + 1))
        return known


def say(value):
    with lock:
        if not hung:
            sys.stdout.write(json.dumps(value) + "\n")
            sys.stdout.flush()


def answer(id, **what):
    global held
    frame = dict(jsonrpc="2.0", id=id, **what)
    with lock:
        if held is None and ordered("hold"):
            held = []
        if held is None:
            return say(frame)
        held.append(frame)
        if len(held) == 3:
            for frame in reversed(held):
                say(frame)
            held = None


def chats():
    latest = {}
    for row in rows():
        latest[row["chat_id"]] = row
    found = sorted(latest.values(), key=lambda row: -row["id"])
    return [{"id": row["chat_id"], "identifier": row.get("chat_identifier", "")} for row in found]


def send(id, params):
    if ordered("die-at-send"):
        os._exit(3)
    if ordered("slow-send"):
        time.sleep(0.5)
    for order in os.listdir(path("do")):
        if order.startswith("refuse-") and ordered(order):
            return answer(id, error={"code": -int(order[7:]), "message": "refused by order"})
    chat = params.get("chat_id")
    if chat is None:
        chat = next((it["id"] for it in chats() if it["identifier"] == params["to"]), 99)
    with lock:
        guid = "sent-%d" % (len(rows()) + 1)
        row = {"chat_id": chat, "guid": guid, "sender": "", "is_from_me": True}
        append("rows", json.dumps(dict(row, text=params["text"])))
        # Others append, too.
        number = next(row["id"] for row in reversed(rows()) if row["guid"] == guid)
    if ordered("die-after-send"):
        os._exit(3)
    answer(id, result={"ok": True, "id": number, "guid": guid})


def request(frame):
    global hung
    append("calls", json.dumps(frame))
    id, method, params = frame["id"], frame["method"], frame.get("params", {})
    if ordered("hang"):
        hung = True
    if method == "send":
        send(id, params)
    elif method == "chats.list":
        answer(id, result={"chats": chats()[: params["limit"]]})
    elif method == "messages.history":
        found = [row for row in reversed(rows()) if row["chat_id"] == params["chat_id"]]
        answer(id, result={"messages": found[: params["limit"]]})
    elif method == "watch.subscribe":
        since = params.get("since_rowid", 0) or len(rows())
        number = len(subscriptions) + 1
        with lock:
            answer(id, result={"subscription": number})
            subscriptions[number] = since
    elif method == "watch.unsubscribe":
        with lock:
            subscriptions[params["subscription"]] = None
            answer(id, result={"ok": True})
    else:
        answer(id, error={"code": -32601, "message": "no such method"})


def notify(method, **params):
    say({"jsonrpc": "2.0", "method": method, "params": params})


def look():
    """What the watcher of the database does."""
    if ordered("die"):
        os._exit(3)
    if ordered("noise"):
        sys.stdout.write('hello\n{"jsonrpc": "2.0"}\n[1, 2]\n{"half": \n\n\0\xff\n')
        sys.stdout.flush()
    if ordered("long"):
        sys.stdout.write("x" * (2 << 20) + "\n")
        sys.stdout.flush()
    if ordered("flood"):
        sys.stderr.write(("y" * 80 + "\n") * 50000)
        sys.stderr.flush()
    for number, since in list(subscriptions.items()):
        if since is None:
            continue
        # Row n is the n-th.
        for row in rows()[max(since, 0) :]:
            subscriptions[number] = row["id"]
            for _ in range(2 if ordered("twice") else 1):
                notify("message", subscription=number, message=row)
            if ordered("overflow"):
                notify("watch.overflow", subscription=number, terminal=True)
                subscriptions[number] = None
                break
        if ordered("watch-error"):
            notify("error", subscription=number, error={"message": "database is locked"})
            subscriptions[number] = None


def watch():
    while True:
        with lock:
            look()
        time.sleep(0.01)


def main():
    append("pids", str(os.getpid()))
    stays = ordered("ignore-eof")
    if stays:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["/bin/sleep", "1000"])
        append("pids", str(child.pid))
    threading.Thread(target=watch, daemon=True).start()
    workers = []
    for line in sys.stdin:
        worker = threading.Thread(target=request, args=(json.loads(line),))
        worker.start()
        workers.append(worker)
        # In order, but for what takes long.
        worker.join(0.05)
    for worker in workers:
        worker.join()
    append("ended", str(os.getpid()))
    while stays:
        time.sleep(1)
    os._exit(0)


main()
