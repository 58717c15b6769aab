#!/usr/bin/env python3
"""A reverse proxy that records the requests to an object store and makes faults.

    fault_proxy.py --upstream 127.0.0.1:5000 [--port 9000] [--fault KIND[:METHOD[:TIMES[:PATH]]]]...

On Ctrl-C it prints the number of requests of each kind. A test runs it in its own process:

    proxy = FaultProxy(("127.0.0.1", 5000))
    proxy.rules = [Rule("503", "PUT", "part-", times=3)]
    ...  # requests to proxy.url
    print(counts(proxy.requests), proxy.most_in_flight)

METHOD and PATH are regular expressions; that of the path, which includes the query, may match
anywhere in it. The faults:

    400, 403, 404, 503   an answer: ExpiredToken, AccessDenied, NoSuchKey, SlowDown
    timeout              not answered for some seconds, then closed
    slow                 forwarded; the answer takes some seconds
    cut                  closed after half of the request's body, or of the answer's
    reset                the connection is reset, the request not forwarded
    lost                 forwarded; the connection is reset instead of an answer

A request is read completely before it is forwarded, so that an upload that breaks off has no
effect, as in an object store.
"""
import argparse, collections, contextlib, html, http.client, http.server, itertools, math, random
import re, socket, struct, sys, threading, time, urllib.parse
from dataclasses import dataclass

# Code and message of the body, as S3 sends it.
ANSWERS = {
    "400": ("ExpiredToken", "The provided token has expired."),
    "403": ("AccessDenied", "Access Denied"),
    "404": ("NoSuchKey", "The specified key does not exist."),
    "503": ("SlowDown", "Please reduce your request rate."),
}
KINDS = (*ANSWERS, "timeout", "slow", "cut", "reset", "lost")
# Headers of one connection; the proxy sets its own.
OF_CONNECTION = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade",
                 "transfer-encoding", "expect", "content-length"}


@dataclass
class Rule:
    """A fault of matching requests: of the first `times`, each with `probability`."""

    kind: str
    method: str = ".*"
    path: str = ""
    times: float = math.inf
    probability: float = 1.0
    seed: int = 0
    seconds: float = 2.0
    hits: int = 0

    def __post_init__(self):
        assert self.kind in KINDS, f"{self.kind} is none of {', '.join(KINDS)}"
        self.random = random.Random(self.seed)

    def applies(self, request):
        matches = re.fullmatch(self.method, request.method) and re.search(self.path, request.path)
        applies = matches and self.hits < self.times and self.random.random() < self.probability
        self.hits += bool(applies)
        return applies


@dataclass
class Request:
    """A request. The server carries it out between `began` and `answered`, which are positions in
    one sequence, and answers with `status`; a fault before that leaves the two unset."""

    method: str
    path: str
    kind: str
    # With the bucket before them; several in a bulk deletion.
    keys: list
    began: int
    answered: float = math.inf
    status: int | None = None
    in_flight: bool = True


def kind_of(method, query, headers):
    """What a request does, in the interface of S3, that of GCS in XML, or Azure's."""
    component = query.get("comp")
    if "delete" in query:
        return "bulk delete"
    if "uploads" in query:
        return "create upload"
    if component == "blocklist":
        return "complete upload"
    if "uploadId" in query or component == "block":
        return {"PUT": "upload part", "POST": "complete upload"}.get(method, "abort upload")
    if "list-type" in query or component == "list":
        return "list"
    is_range = method == "GET" and ("Range" in headers or "x-ms-range" in headers)
    return "get range" if is_range else method.lower()


def counts(requests):
    """The number of requests of each kind."""
    return collections.Counter(request.kind for request in requests)


class FaultProxy:
    """A proxy before the server at `upstream`, a host and a port, on threads until `close`. The
    first of `rules` that applies to a request counts. `requests` has every request since the
    start, in order."""

    def __init__(self, upstream, port=0):
        self.upstream, self.rules, self.requests = upstream, [], []
        self.in_flight = self.most_in_flight = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.sequence = itertools.count()
        self.server = Server(("127.0.0.1", port), Handler)
        self.server.proxy = self
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def begin(self, method, target, headers):
        """Records a request, and returns it with the rule that applies to it, if any."""
        path, _, query = target.partition("?")
        kind = kind_of(method, dict(urllib.parse.parse_qsl(query, True)), headers)
        key = urllib.parse.unquote(path).strip("/")
        with self.lock:
            request = Request(method, target, kind, [key], next(self.sequence))
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            return request, next((rule for rule in self.rules if rule.applies(request)), None)

    def end(self, request):
        with self.lock:
            self.in_flight -= request.in_flight
            request.in_flight = False

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def shutdown_request(self, request):
        # The base class first ends its side in order, which would hide a reset.
        self.close_request(request)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def serve(self):
        proxy = self.server.proxy
        request, rule = proxy.begin(self.command, self.path, self.headers)
        try:
            self.answer(request, rule)
        except ConnectionError:
            self.close_connection = True
        finally:
            proxy.end(request)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def answer(self, request, rule):
        fault, proxy = rule and rule.kind, self.server.proxy
        if fault == "timeout":
            proxy.closing.wait(rule.seconds)
        length = int(self.headers.get("Content-Length", 0))
        is_cut_upload = fault == "cut" and length > 0
        if is_cut_upload:
            self.rfile.read(length // 2)
        if is_cut_upload or fault in ("timeout", "reset"):
            return self.hang_up(reset=fault == "reset")
        body = self.read_body()
        if fault in ANSWERS:
            code, message = ANSWERS[fault]
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            return self.send(int(fault), [("Content-Type", "application/xml")], text.encode())
        if request.kind == "bulk delete":
            bucket, found = request.keys[0], re.findall("<Key>(.*?)</Key>", body.decode(), re.S)
            request.keys = [f"{bucket}/{html.unescape(key)}" for key in found]
        status, headers, answer = self.forward(body)
        request.status, request.answered = status, next(proxy.sequence)
        if fault == "lost":
            return self.hang_up(reset=True)
        if fault != "slow":
            # Before the answer, after which the client may already send its next request.
            proxy.end(request)
        self.send(status, headers, answer, fault, rule.seconds if rule else 0)

    def read_body(self):
        """The request's body, or None if it has none."""
        if "Transfer-Encoding" not in self.headers:
            length = self.headers.get("Content-Length")
            return None if length is None else self.read(int(length))
        pieces = []
        while size := int(self.read_line().split(b";")[0], 16):
            pieces.append(self.read(size))
            self.read_line()
        while self.read_line().strip():
            pass
        return b"".join(pieces)

    def read(self, size):
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionResetError("the upload breaks off")
        return content

    def read_line(self):
        return self.rfile.readline(1 << 16) or self.read(1)

    def forward(self, body):
        """The server's status, headers and body."""
        headers = [(k, v) for k, v in self.headers.items() if k.lower() not in OF_CONNECTION]
        headers.append(("Connection", "close"))
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        server = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                server.putheader(name, value)
            server.endheaders(body)
            answer = server.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except (OSError, http.client.HTTPException) as error:
            return 502, [("Content-Type", "text/plain")], f"{error!r}\n".encode()
        finally:
            server.close()

    def send(self, status, headers, body, fault=None, seconds=0):
        length = str(len(body))
        if self.command == "HEAD":
            # The length of a body that does not follow.
            length = next((v for k, v in headers if k.lower() == "content-length"), None)
            body = b""
        if fault == "slow" and not body:
            time.sleep(seconds)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in OF_CONNECTION:
                self.send_header(name, value)
        if length is not None and status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            return self.hang_up()
        steps = 20 if fault == "slow" and body else 1
        for step in range(steps):
            time.sleep(seconds / steps if steps > 1 else 0)
            self.wfile.write(body[len(body) * step // steps : len(body) * (step + 1) // steps])

    def hang_up(self, reset=False):
        if reset:
            # Closing then discards what is unsent, and resets.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--upstream", required=True, help="host:port of the server")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--fault", action="append", default=[], help=f"of {', '.join(KINDS)}")
    options = parser.parse_args()
    host, port = options.upstream.rsplit(":", 1)
    proxy = FaultProxy((host, int(port)), options.port)
    for fault in options.fault:
        kind, method, times, path, *_ = fault.split(":", 3) + [""] * 3
        proxy.rules.append(Rule(kind, method or ".*", path, float(times or math.inf)))
    print(f"{proxy.url} forwards to {options.upstream}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    for kind, count in counts(proxy.requests).most_common():
        print(f"{count:8} {kind}")
    print(f"{proxy.most_in_flight:8} in flight at most")


if __name__ == "__main__":
    main()
