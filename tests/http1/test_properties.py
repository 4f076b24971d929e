"""Properties of the parser that hold for all input, and other programs as oracles for what they produce."""

from __future__ import annotations

import http.client
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from parsing import LIMITS, Engine, cut, http1, run, single_bytes

from tests.http1.test_malformed import CASES
from tests.http1.test_smuggling import PAYLOADS

# A busy machine is no fault of the parser: no deadline, no complaint about slow generation. And no files in the tree.
settings.register_profile(
    "http1", deadline=None, max_examples=300, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("http1")

STATUSES = {None, 400, 414, 417, 431, 501, 505}
TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# ---- Input: from legal to nearly legal to noise ----
names = st.text(TOKEN, min_size=1, max_size=12)
values = st.text([chr(c) for c in (9, *range(32, 127), *range(160, 256))], max_size=40)
paths = st.text("/abcXYZ019-._~!$&'()*+,;=:@", max_size=20).map("/".__add__)
queries = st.one_of(st.just(""), st.text("/?abcXYZ019-._~!$&'()*+,;=:@[]{}|^`\\", max_size=20).map("?".__add__))
hosts = st.one_of(
    st.from_regex(r"[A-Za-z0-9._~-]{1,20}(:[0-9]{1,4})?", fullmatch=True),
    st.ip_addresses(v=6).map("[{}]".format),
    st.ip_addresses(v=4).map(str),
)
NOTABLE = {"host", "content-length", "transfer-encoding", "connection", "expect"}
ordinary_names = names.filter(lambda name: name.lower() not in NOTABLE | {"accept-encoding"})
ordinary = st.tuples(ordinary_names, values)
methods = names.filter(lambda name: name != "CONNECT")
bodies = st.binary(max_size=200)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A legal HTTP/1.1 request."""
    lines = [f"{draw(methods)} {draw(paths)}{draw(queries)} HTTP/1.1"]
    fields = draw(st.lists(ordinary.map(": ".join), max_size=6))
    fields.insert(
        draw(st.integers(0, len(fields))), f"{draw(st.sampled_from(['Host', 'host', 'HOST']))}: {draw(hosts)}"
    )
    body = b""
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "length":
        body = draw(bodies)
        fields.insert(draw(st.integers(0, len(fields))), f"Content-Length: {len(body)}")
    elif kind == "chunked":
        pieces = draw(st.lists(bodies.filter(bool), max_size=4))
        extension = draw(st.sampled_from([b"", b";a", b" ; a = b", b';a="b \\" c";d']))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
        body += draw(st.sampled_from([b"0\r\n\r\n", b"000;a=b\r\n\r\n", b"0\r\nX-Sum: 1\r\nY:\r\n\r\n"]))
        fields.insert(draw(st.integers(0, len(fields))), "Transfer-Encoding: chunked")
    return "\r\n".join([*lines, *fields, "", ""]).encode("latin-1") + body


corpus = st.sampled_from(
    [data for data, _ in CASES.values() if len(data) < 2000] + [payload.data for payload in PAYLOADS]
)
streams = st.lists(st.one_of(requests(), corpus, st.sampled_from([b"\r\n", b"\r", b"\n"])), max_size=4).map(b"".join)
MARKS = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"%",
    b"\xff",
    b"chunked",
    b"HTTP/1.1",
    b"Host: b\r\n",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A stream with a few bytes put in, taken out or doubled."""
    data = draw(streams)
    for _ in range(draw(st.integers(0, 4))):
        a = draw(st.integers(0, len(data)))
        b = min(len(data), a + draw(st.integers(0, 3)))
        data = data[:a] + draw(st.one_of(st.just(b""), st.sampled_from(MARKS), st.just(data[a:b] * 2))) + data[b:]
    return data


anything = st.one_of(st.binary(max_size=300), mutated())


# ---- Properties ----
@given(anything, st.lists(st.integers(0, 1000), max_size=8))
@example(b"\r\n\r\n\r\n\r\n\r", [1])
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", [25])
def test_any_split_gives_the_same_events(data: bytes, places: list[int]) -> None:
    whole = run(data)
    assert run(cut(data, places)) == whole
    assert run(single_bytes(data)) == whole
    assert run([piece for byte in single_bytes(data) for piece in (byte, b"")]) == whole


@given(anything, st.lists(st.integers(0, 1000), max_size=8))
def test_any_split_gives_the_same_events_within_tight_limits(data: bytes, places: list[int]) -> None:
    limits = http1.Limits(line=30, head=120, fields=3, trailer=16, chunk=12, extensions=20)
    whole = run(data, limits)
    assert run(cut(data, places), limits) == whole
    assert run(single_bytes(data), limits) == whole


@given(anything)
def test_any_bytes_give_events_or_a_protocol_error(data: bytes) -> None:
    engine = Engine()
    engine.feed(data)  # another exception would come out here
    assert engine.status in STATUSES
    assert engine.reason != "malformed head"  # the two readings of a head agree
    for request in engine.requests:
        assert request.method.isascii()
        assert request.target.isprintable()
        assert not any(c in name + value for name, value in request.fields for c in "\r\n\0")


@given(anything)
def test_the_hint_changes_nothing(data: bytes) -> None:
    """parse_head with `seen`, without it, and on a bytearray in front of which there is something else."""
    buffer = bytearray(b"xyz")
    seen = 0
    for piece in cut(data, range(0, len(data), 7)):
        buffer += piece
        given_hint = _parse(buffer, 3, seen)
        assert given_hint == _parse(buffer, 3, 0) == _parse(bytes(buffer), 3, 0)
        if given_hint is not None:
            return
        seen = len(buffer)


def _parse(buffer: bytes | bytearray, start: int, seen: int) -> Any:
    try:
        found = http1.parse_head(buffer, LIMITS, start, seen)
    except http1.ProtocolError as error:
        return error.status
    return found and (found[0].method, found[0].target, found[0].raw, found[0].length, found[1])


@given(st.lists(ordinary, max_size=6), hosts, st.integers(0, 6), st.sampled_from(["1.0", "1.1"]))
def test_fields_come_back_as_sent(fields: list[tuple[str, str]], host: str, place: int, version: str) -> None:
    fields.insert(place, ("Host", host))
    data = "".join([f"GET / HTTP/{version}\r\n", *(f"{name}: {value}\r\n" for name, value in fields), "\r\n"])
    head, end = http1.parse_head(data.encode("latin-1"), LIMITS)
    assert end == len(data)
    assert head.host == host
    expected = [(name.lower(), value.strip(" \t")) for name, value in fields]
    assert head.fields() == expected
    for name, _ in fields:
        for asked in (name, name.lower(), name.upper()):
            assert head.get(asked) == ", ".join(value for key, value in expected if key == name.lower())
    assert head.get("X-Absent") is None
    assert head.get("X-Absent", "default") == "default"


@given(st.lists(requests(), min_size=1, max_size=4))
def test_legal_requests_are_all_served_in_order(many: list[bytes]) -> None:
    alone = [run(one) for one in many]
    assert all(outcome.status is None and len(outcome.requests) == 1 for outcome in alone)
    assert run(b"".join(many)).requests == tuple(outcome.requests[0] for outcome in alone)


@given(requests(), st.integers(0, 10_000), st.sampled_from([bytes([c]) for c in range(256) if c < 32 or c > 126]))
def test_no_control_byte_gets_into_a_head(data: bytes, place: int, byte: bytes) -> None:
    """One byte more in a head: a request only if that byte may be in a value."""
    end = data.index(b"\r\n\r\n")
    place %= end
    outcome = run(data[:place] + byte + data[place:])
    if byte not in (b"\t", b"\r", b"\n") and byte < b"\x80":
        assert (outcome.requests, outcome.status) == ((), 400)
    else:
        assert outcome.status in (None, 400, 431)


@given(st.lists(bodies, max_size=6), st.lists(st.integers(0, 2000), max_size=6))
def test_what_chunk_encodes_is_decoded(pieces: list[bytes], places: list[int]) -> None:
    encoded = b"".join(map(http1.chunk, pieces)) + http1.LAST_CHUNK + b"rest"
    decoder = http1.Chunked(LIMITS)
    payload = rest = b""
    for piece in cut(encoded, places):
        more, left = decoder.feed(piece)
        payload += more
        rest += left
    assert (payload, rest, decoder.done, decoder.trailers) == (b"".join(pieces), b"rest", True, [])


# ---- Oracles ----
class _Wire:
    """A socket that only records."""

    def __init__(self) -> None:
        self.sent = b""

    def sendall(self, data: bytes) -> None:
        self.sent += data


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]),
    paths,
    queries,
    st.dictionaries(
        names.filter(lambda n: n.lower() not in NOTABLE | {"accept-encoding"}), values.map(str.strip), max_size=5
    ),
    st.one_of(st.none(), bodies, st.lists(bodies, max_size=4)),
    st.sampled_from(["example.com", "localhost:8080", "127.0.0.1", "[::1]:80"]),
)
def test_what_http_client_sends(
    method: str, path: str, query: str, fields: dict[str, str], body: bytes | list[bytes] | None, host: str
) -> None:
    connection = http.client.HTTPConnection(host)
    wire = _Wire()
    connection.sock = wire
    sent = iter(body) if isinstance(body, list) else body
    connection.request(method, path + query, sent, fields, encode_chunked=isinstance(body, list))
    outcome = run(wire.sent)
    assert outcome.status is None
    (request,) = outcome.requests
    assert (request.method, request.target, request.minor) == (method, path + query, 1)
    assert request.host in (host, host.removesuffix(":80"))
    assert request.body == (b"".join(body) if isinstance(body, list) else body or b"")
    for name, value in fields.items():
        assert (name.lower(), value.strip(" \t")) in request.fields


@given(
    st.from_regex(r"[A-Z]{1,8}", fullmatch=True).filter(lambda m: m != "CONNECT"),
    paths,
    st.lists(st.tuples(names, values.map(str.strip)).filter(lambda f: f[0].lower() not in NOTABLE), max_size=5),
    st.sampled_from(["none", "length", "chunked", "close", "expect"]),
    st.lists(bodies.filter(bool), min_size=1, max_size=4),
    st.lists(st.integers(0, 2000), max_size=4),
)
def test_what_h11_sends_and_how_h11_reads_it(
    method: str, path: str, fields: list[tuple[str, str]], kind: str, pieces: list[bytes], places: list[int]
) -> None:
    framing = {
        "none": [],
        "length": [("Content-Length", str(len(b"".join(pieces))))],
        "chunked": [("Transfer-Encoding", "chunked")],
        "close": [("Connection", "close")],
        "expect": [("Expect", "100-continue"), ("Content-Length", str(len(b"".join(pieces))))],
    }[kind]
    headers = [("Host", "example.com"), *fields, *framing]
    client = h11.Connection(h11.CLIENT)
    trailers = [("X-Trailer", "1")] if kind == "chunked" else []
    sent = client.send(
        h11.Request(method=method, target=path, headers=[(n.encode(), v.encode("latin-1")) for n, v in headers])
    )
    assert sent is not None
    if framing and kind != "close":
        for piece in pieces:
            sent += client.send(h11.Data(data=piece)) or b""
    sent += client.send(h11.EndOfMessage(headers=trailers)) or b""

    outcome = run(cut(sent, places))
    assert outcome.status is None
    (request,) = outcome.requests
    server = h11.Connection(h11.SERVER)
    server.receive_data(sent)
    theirs = server.next_event()
    assert isinstance(theirs, h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert (request.method, request.target) == (theirs.method.decode(), theirs.target.decode())
    assert list(request.fields) == [(n.decode("latin-1"), v.decode("latin-1")) for n, v in theirs.headers]
    assert request.body == body
    assert list(request.trailers) == [(n.decode(), v.decode()) for n, v in event.headers]
    assert request.keep_alive == (kind != "close")
    assert request.expect == (kind == "expect")


@settings(max_examples=1000)
@given(anything)
def test_what_we_accept_h11_reads_alike(data: bytes) -> None:
    """Of what both accept the first request is the same one: the same method, target, fields and body."""
    ours = run(data)
    server = h11.Connection(h11.SERVER)
    try:
        server.receive_data(data)
        theirs = server.next_event()
        body = b""
        event = server.next_event() if isinstance(theirs, h11.Request) else None
        while isinstance(event, h11.Data):
            body += bytes(event.data)
            event = server.next_event()
    except h11.RemoteProtocolError:
        return  # stricter than we are: pytest's tables say where that is meant
    if not isinstance(theirs, h11.Request) or not isinstance(event, h11.EndOfMessage) or not ours.requests:
        return
    request = ours.requests[0]
    assert (request.method, request.target) == (theirs.method.decode(), theirs.target.decode())
    assert list(request.fields) == [(n.decode("latin-1"), v.decode("latin-1")) for n, v in theirs.headers]
    assert request.body == body


def test_the_oracles_are_not_blind() -> None:
    """The same comparison does find a difference where there is one."""
    data = b"GET / HTTP/1.1\nHost: a\n\n"  # h11 reads bare LF as the end of a line
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    assert isinstance(server.next_event(), h11.Request)
    assert run(data).status == 400


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_http_client_as_an_old_client(version: str) -> None:
    connection = http.client.HTTPConnection("example.com")
    connection._http_vsn, connection._http_vsn_str = int(version.replace(".", "")), f"HTTP/{version}"  # type: ignore[attr-defined]
    wire = _Wire()
    connection.sock = wire
    connection.request("POST", "/", b"body")
    (request,) = run(wire.sent).requests
    assert (request.body, request.keep_alive, request.minor) == (b"body", version == "1.1", int(version[-1]))
