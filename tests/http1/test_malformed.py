"""Malformed messages by table: what each is answered with, whole or byte by byte, and that nothing after it is served.

Every case is one message; a valid request is sent behind it on the same connection and must never be answered.
Section numbers are those of RFC 9112 unless they say otherwise.
"""

from __future__ import annotations

import pytest
from parsing import FOLLOW_UP, Engine, http1, run, single_bytes

GET = b"GET / HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
HEAD = GET + HOST


def line(request_line: bytes) -> bytes:
    """A message of which only the request line is in doubt."""
    return request_line + b"\r\n" + HOST + b"\r\n"


def target(value: bytes) -> bytes:
    return line(b"GET " + value + b" HTTP/1.1")


def field(value: bytes) -> bytes:
    """A message of which one field line is in doubt."""
    return HEAD + value + b"\r\n\r\n"


def host(value: bytes) -> bytes:
    return GET + b"Host:" + value + b"\r\n\r\n"


def sized(value: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:" + value + b"\r\n\r\nhello"


def coded(value: bytes, body: bytes = b"0\r\n\r\n") -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:" + value + b"\r\n\r\n" + body


def chunks(body: bytes) -> bytes:
    return coded(b" chunked", body)


CASES: dict[str, tuple[bytes, int]] = {
    # ---- request line (section 3) ----
    "one word": (line(b"GET"), 400),
    "two words: HTTP/0.9": (line(b"GET /"), 400),
    "method and version without a target": (line(b"GET HTTP/1.1"), 400),
    "four words": (line(b"GET / x HTTP/1.1"), 400),
    "two spaces before the target": (line(b"GET  / HTTP/1.1"), 400),
    "two spaces before the version": (line(b"GET /  HTTP/1.1"), 400),
    "space before the method": (line(b" GET / HTTP/1.1"), 400),
    "tab before the method": (line(b"\tGET / HTTP/1.1"), 400),
    "space after the version": (line(b"GET / HTTP/1.1 "), 400),
    "tab after the version": (line(b"GET / HTTP/1.1\t"), 400),
    "tab for the first space": (line(b"GET\t/ HTTP/1.1"), 400),
    "tab for the second space": (line(b"GET /\tHTTP/1.1"), 400),
    "vertical tab for a space": (line(b"GET\x0b/ HTTP/1.1"), 400),
    "form feed for a space": (line(b"GET /\x0cHTTP/1.1"), 400),
    "no-break space in UTF-8 for a space": (line("GET\u00a0/ HTTP/1.1".encode()), 400),
    "CR for a space": (line(b"GET\r/ HTTP/1.1"), 400),
    "no method": (line(b"/ HTTP/1.1"), 400),
    "only spaces": (line(b"   "), 400),
    "comma in the method": (line(b"GE,T / HTTP/1.1"), 400),
    "colon in the method": (line(b"GET: / HTTP/1.1"), 400),
    "slash in the method": (line(b"GE/T / HTTP/1.1"), 400),
    "brackets in the method": (line(b"GE[T] / HTTP/1.1"), 400),
    "quotes around the method": (line(b'"GET" / HTTP/1.1'), 400),
    "parenthesis in the method": (line(b"GET( / HTTP/1.1"), 400),
    "at sign in the method": (line(b"GE@T / HTTP/1.1"), 400),
    "NUL in the method": (line(b"GE\0T / HTTP/1.1"), 400),
    "DEL in the method": (line(b"GE\x7fT / HTTP/1.1"), 400),
    "high byte in the method": (line(b"G\xc9T / HTTP/1.1"), 400),
    "a field line first": (HOST + b"\r\n", 400),
    "a status line": (line(b"HTTP/1.1 200 OK"), 400),
    "bare LF after the request line": (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    "bare CR after the request line": (b"GET / HTTP/1.1\r" + HOST + b"\r\n", 400),
    "CR CR LF after the request line": (b"GET / HTTP/1.1\r\r\n" + HOST + b"\r\n", 400),
    "LF CR after the request line": (b"GET / HTTP/1.1\n\r" + HOST + b"\r\n", 400),
    # ---- version (sections 2.3, 3; RFC 9110 15.6.6) ----
    "HTTP/0.9": (line(b"GET / HTTP/0.9"), 505),
    "HTTP/0.0": (line(b"GET / HTTP/0.0"), 505),
    "HTTP/1.2": (line(b"GET / HTTP/1.2"), 505),
    "HTTP/1.9": (line(b"GET / HTTP/1.9"), 505),
    "HTTP/2.0": (line(b"GET / HTTP/2.0"), 505),
    "HTTP/3.0": (line(b"GET / HTTP/3.0"), 505),
    "HTTP/9.9": (line(b"GET / HTTP/9.9"), 505),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/2 without a minor": (line(b"GET / HTTP/2"), 400),
    "HTTP/1": (line(b"GET / HTTP/1"), 400),
    "HTTP/1.": (line(b"GET / HTTP/1."), 400),
    "HTTP/.1": (line(b"GET / HTTP/.1"), 400),
    "HTTP/11": (line(b"GET / HTTP/11"), 400),
    "HTTP/1,1": (line(b"GET / HTTP/1,1"), 400),
    "HTTP/1.10": (line(b"GET / HTTP/1.10"), 400),
    "HTTP/01.1": (line(b"GET / HTTP/01.1"), 400),
    "HTTP/1.01": (line(b"GET / HTTP/1.01"), 400),
    "HTTP/1.1.1": (line(b"GET / HTTP/1.1.1"), 400),
    "HTTP/1.x": (line(b"GET / HTTP/1.x"), 400),
    "HTTP/+1.1": (line(b"GET / HTTP/+1.1"), 400),
    "HTTP/-1.1": (line(b"GET / HTTP/-1.1"), 400),
    "HTTP 1.1": (line(b"GET / HTTP 1.1"), 400),
    "HTTP//1.1": (line(b"GET / HTTP//1.1"), 400),
    "http/1.1": (line(b"GET / http/1.1"), 400),
    "HTTPS/1.1": (line(b"GET / HTTPS/1.1"), 400),
    "HTP/1.1": (line(b"GET / HTP/1.1"), 400),
    "ICY/1.1": (line(b"GET / ICY/1.1"), 400),
    "full-width digit in the version": (line("GET / HTTP/1.\uff11".encode()), 400),
    # ---- target (section 3.2) ----
    "a path without a slash": (target(b"index.html"), 400),
    "a query alone": (target(b"?a=b"), 400),
    "a backslash first": (target(b"\\"), 400),
    "a backslash in the path": (target(b"/a\\b"), 400),
    "a fragment": (target(b"/a#b"), 400),
    "a fragment after the query": (target(b"/a?b#c"), 400),
    "quotation mark in the path": (target(b'/a"b'), 400),
    "quotation mark in the query": (target(b'/?a"b'), 400),
    "less-than in the path": (target(b"/<script>"), 400),
    "greater-than in the query": (target(b"/?a>b"), 400),
    "brace in the path": (target(b"/{a}"), 400),
    "backtick in the path": (target(b"/`id`"), 400),
    "UTF-8 in the path": (target("/\u00fc".encode()), 400),
    "UTF-8 in the query": (target("/?q=\u00fc".encode()), 400),
    "Latin-1 in the path": (target(b"/\xfc"), 400),
    "high byte alone": (target(b"\xff"), 400),
    "NUL in the path": (target(b"/a\0b"), 400),
    "DEL in the path": (target(b"/a\x7fb"), 400),
    "escape character in the path": (target(b"/a\x1bb"), 400),
    "NUL in the query": (target(b"/?a\0"), 400),
    "CR in the path": (target(b"/a\rb"), 400),
    "LF in the path": (target(b"/a\nb"), 400),
    "percent at the end": (target(b"/a%"), 400),
    "percent and one digit": (target(b"/a%4"), 400),
    "percent and no digits": (target(b"/%zz"), 400),
    "percent, digit, no digit": (target(b"/%2g"), 400),
    "percent and a sign": (target(b"/%-1"), 400),
    "percent and u": (target(b"/%u0041"), 400),
    "percent percent": (target(b"/%%41"), 400),
    "asterisk with GET": (target(b"*"), 400),
    "asterisk with POST": (line(b"POST * HTTP/1.1"), 400),
    "asterisk with options in lower case": (line(b"options * HTTP/1.1"), 400),
    "asterisk and a path": (line(b"OPTIONS */ HTTP/1.1"), 400),
    "asterisk and a query": (line(b"OPTIONS *?a HTTP/1.1"), 400),
    "two asterisks": (line(b"OPTIONS ** HTTP/1.1"), 400),
    "authority-form with GET": (target(b"a:80"), 400),
    "CONNECT": (line(b"CONNECT a:443 HTTP/1.1"), 501),
    "CONNECT with a path": (line(b"CONNECT / HTTP/1.1"), 501),
    "CONNECT with nonsense": (line(b"CONNECT <> HTTP/1.1"), 501),
    "absolute-form: ftp": (target(b"ftp://a/"), 400),
    "absolute-form: file": (target(b"file:///etc/passwd"), 400),
    "absolute-form: ws": (target(b"ws://a/"), 400),
    "absolute-form: no host": (target(b"http:///a"), 400),
    "absolute-form: nothing": (target(b"http://"), 400),
    "absolute-form: only a port": (target(b"http://:80/"), 400),
    "absolute-form: one slash": (target(b"http:/a/"), 400),
    "absolute-form: no slashes": (target(b"http:a"), 400),
    "absolute-form: userinfo": (target(b"http://user@a/"), 400),
    "absolute-form: userinfo and password": (target(b"http://user:pw@a/"), 400),
    "absolute-form: comma": (target(b"http://a,b/"), 400),
    "absolute-form: port too large": (target(b"http://a:65536/"), 400),
    "absolute-form: port with letters": (target(b"http://a:http/"), 400),
    "absolute-form: signed port": (target(b"http://a:-80/"), 400),
    "absolute-form: two ports": (target(b"http://a:80:80/"), 400),
    "absolute-form: backslash": (target(b"http://a\\b/"), 400),
    "absolute-form: bracket left open": (target(b"http://[::1/"), 400),
    "absolute-form: no IPv6 address": (target(b"http://[1]/"), 400),
    "absolute-form: fragment": (target(b"http://a/#b"), 400),
    "absolute-form: broken escape": (target(b"http://a/%4"), 400),
    "absolute-form without Host": (b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
    "absolute-form with a malformed Host": (b"GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    # ---- empty lines (section 2.2) ----
    "five empty lines": (b"\r\n" * 5 + HEAD + b"\r\n", 400),
    "LF alone before the request": (b"\n" + HEAD + b"\r\n", 400),
    "CR alone before the request": (b"\r" + HEAD + b"\r\n", 400),
    "CR LF LF before the request": (b"\r\n\n" + HEAD + b"\r\n", 400),
    "CR CR LF before the request": (b"\r\r\n" + HEAD + b"\r\n", 400),
    "empty line, then a space": (b"\r\n " + HEAD + b"\r\n", 400),
    # ---- no HTTP at all ----
    "TLS client hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    "SMTP": (b"EHLO a\r\n", 400),
    "redis": (b"*1\r\n$4\r\nPING\r\n", 400),
    "PROXY protocol 1": (b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n" + HEAD + b"\r\n", 400),
    "PROXY protocol 2": (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12), 400),
    "zeroes": (bytes(100), 400),
    "UTF-8 with a byte order mark": (b"\xef\xbb\xbf" + HEAD + b"\r\n", 400),
    "UTF-16": ("GET / HTTP/1.1\r\n\r\n".encode("utf-16-le"), 400),
    # ---- field lines (section 5) ----
    "no colon": (field(b"X-Field"), 400),
    "no name": (field(b": value"), 400),
    "only a colon": (field(b":"), 400),
    "space before the colon": (field(b"X-Field : value"), 400),
    "tab before the colon": (field(b"X-Field\t: value"), 400),
    "space in the name": (field(b"X Field: value"), 400),
    "space before the name, first field": (GET + b" Host: a\r\n\r\n", 400),
    "tab before the name, first field": (GET + b"\tHost: a\r\n\r\n", 400),
    "folded with a space": (field(b"X-Field: a\r\n b"), 400),
    "folded with a tab": (field(b"X-Field: a\r\n\tb"), 400),
    "folded and empty": (field(b"X-Field: a\r\n "), 400),
    "a line of one space": (field(b" "), 400),
    "folded Host": (GET + b"Host:\r\n a\r\n\r\n", 400),
    "bare LF after a field": (HEAD + b"A: b\nC: d\r\n\r\n", 400),
    "bare CR in a field": (field(b"A: b\rC: d"), 400),
    "bare CR at the start of a value": (field(b"A:\rb"), 400),
    "CR CR LF after a field": (HEAD + b"A: b\r\r\nC: d\r\n\r\n", 400),
    "LF LF at the end": (HEAD.replace(b"\r\n", b"\n") + b"\n", 400),
    "CR LF LF at the end": (HEAD + b"\n", 400),
    "CR CR at the end": (HEAD + b"\r\r", 400),
    "CR, letter at the end": (HEAD + b"\rX", 400),
    "NUL in a value": (field(b"A: b\0c"), 400),
    "NUL in a name": (field(b"A\0: b"), 400),
    "NUL alone": (field(b"\0"), 400),
    "backspace in a value": (field(b"A: b\x08"), 400),
    "vertical tab in a value": (field(b"A: b\x0bc"), 400),
    "form feed in a value": (field(b"A:\x0cb"), 400),
    "escape character in a value": (field(b"A: \x1b[2J"), 400),
    "unit separator in a value": (field(b"A: \x1f"), 400),
    "DEL in a value": (field(b"A: \x7f"), 400),
    "DEL in a name": (field(b"A\x7f: b"), 400),
    "high byte in a name": (field(b"\xc4: b"), 400),
    "UTF-8 in a name": (field("N\u00e4me: b".encode()), 400),
    "parenthesis in a name": (field(b"A(b): c"), 400),
    "slash in a name": (field(b"A/b: c"), 400),
    "at sign in a name": (field(b"A@b: c"), 400),
    "quotation mark in a name": (field(b'A"b: c'), 400),
    "semicolon in a name": (field(b"A;b: c"), 400),
    "brackets in a name": (field(b"A[]: c"), 400),
    "equals sign in a name": (field(b"A=b: c"), 400),
    "brace in a name": (field(b"A{b}: c"), 400),
    "backslash in a name": (field(b"A\\b: c"), 400),
    "comma in a name": (field(b"A,b: c"), 400),
    "question mark in a name": (field(b"A?: c"), 400),
    "a request line as a field": (field(b"GET / HTTP/1.1"), 400),
    # ---- Host (section 3.2, RFC 9110 7.2) ----
    "no Host": (GET + b"\r\n", 400),
    "no Host, other fields": (GET + b"Accept: */*\r\nX-Host: a\r\n\r\n", 400),
    "two Hosts": (GET + HOST + b"Host: b\r\n\r\n", 400),
    "the same Host twice": (GET + HOST + HOST + b"\r\n", 400),
    "two Hosts apart, in other cases": (GET + b"hOST: a\r\nA: b\r\nHOST: a\r\n\r\n", 400),
    "two empty Hosts": (GET + b"Host:\r\nHost:\r\n\r\n", 400),
    "empty Host, then a Host": (GET + b"Host:\r\nHost: a\r\n\r\n", 400),
    "two Hosts in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "malformed Host in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", 400),
    "empty Host": (host(b""), 400),
    "Host of spaces": (host(b" \t "), 400),
    "Host with a comma": (host(b" a, b"), 400),
    "Host with a comma and no space": (host(b" a,a"), 400),
    "Host with a space": (host(b" a b"), 400),
    "Host with a tab": (host(b" a\tb"), 400),
    "Host with a path": (host(b" a/b"), 400),
    "Host with a slash": (host(b" a/"), 400),
    "Host with a query": (host(b" a?b"), 400),
    "Host with a fragment": (host(b" a#b"), 400),
    "Host with userinfo": (host(b" user@a"), 400),
    "Host with userinfo and password": (host(b" user:pw@a"), 400),
    "Host as a URL": (host(b" http://a"), 400),
    "Host with a backslash": (host(b" a\\b"), 400),
    "Host with a quotation mark": (host(b' a"b'), 400),
    "Host with angle brackets": (host(b" <a>"), 400),
    "Host with a high byte": (host(b" \xe4"), 400),
    "Host in UTF-8": (host(" \u00e4.example".encode()), 400),
    "Host with only a port": (host(b" :80"), 400),
    "Host with a port too large": (host(b" a:65536"), 400),
    "Host with a port much too large": (host(b" a:99999"), 400),
    "Host with a port of six digits": (host(b" a:000080"), 400),
    "Host with a signed port": (host(b" a:+80"), 400),
    "Host with a negative port": (host(b" a:-1"), 400),
    "Host with a hexadecimal port": (host(b" a:0x50"), 400),
    "Host with a named port": (host(b" a:http"), 400),
    "Host with two ports": (host(b" a:80:80"), 400),
    "Host with a space before the port": (host(b" a :80"), 400),
    "Host with an IPv6 address without brackets": (host(b" ::1"), 400),
    "Host with brackets left open": (host(b" [::1"), 400),
    "Host with brackets never opened": (host(b" ::1]"), 400),
    "Host with empty brackets": (host(b" []"), 400),
    "Host with a name in brackets": (host(b" [abcd]"), 400),
    "Host with three colons": (host(b" [:::]"), 400),
    "Host with too many groups": (host(b" [1:2:3:4:5:6:7:8:9]"), 400),
    "Host with a group too long": (host(b" [::12345]"), 400),
    "Host with an IPv4 address in brackets": (host(b" [127.0.0.1]"), 400),
    "Host with a zone": (host(b" [fe80::1%25eth0]"), 400),
    "Host with a future address": (host(b" [v1.a]"), 400),
    "Host with text after the brackets": (host(b" [::1]a"), 400),
    # ---- Content-Length (section 6.3, RFC 9110 8.6) ----
    "no length": (sized(b""), 400),
    "length of spaces": (sized(b"  "), 400),
    "negative length": (sized(b" -5"), 400),
    "length with a plus": (sized(b" +5"), 400),
    "length with a point": (sized(b" 5.0"), 400),
    "length with an exponent": (sized(b" 5e0"), 400),
    "hexadecimal length": (sized(b" 0x5"), 400),
    "length with an underscore": (sized(b" 0_5"), 400),
    "length with a space inside": (sized(b" 5 5"), 400),
    "length in letters": (sized(b" five"), 400),
    "length and a unit": (sized(b" 5B"), 400),
    "length in quotes": (sized(b' "5"'), 400),
    "length with a comma at the end": (sized(b" 5,"), 400),
    "length list": (sized(b" 5, 5"), 400),
    "length list, unequal": (sized(b" 5, 6"), 400),
    "length with a semicolon": (sized(b" 5;a=b"), 400),
    "superscript length": (sized(b" \xb2"), 400),
    "Arabic digits": (sized(" \u0665".encode()), 400),
    "length of 19 digits": (sized(b" 1000000000000000000"), 400),
    "length of 2**64": (sized(b" 18446744073709551616"), 400),
    "length that overflows to 5": (sized(b" 18446744073709551621"), 400),
    "length of 5000 digits": (sized(b" " + b"1" * 5000), 400),
    "length with many zeroes": (sized(b" " + b"0" * 30 + b"5"), 400),
    "the same length twice": (sized(b" 5\r\nContent-Length: 5"), 400),
    "two lengths": (sized(b" 5\r\nContent-Length: 6"), 400),
    "two lengths in other cases, apart": (sized(b" 5\r\nA: b\r\ncontent-length: 0"), 400),
    "length, then an empty length": (sized(b" 5\r\nContent-Length:"), 400),
    "two lengths in HTTP/1.0": (b"POST / HTTP/1.0\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "negative length with GET": (field(b"Content-Length: -1"), 400),
    # ---- Transfer-Encoding (sections 6.1 and 7) ----
    "coding and length": (coded(b" chunked\r\nContent-Length: 5"), 400),
    "length and coding": (sized(b" 5\r\nTransfer-Encoding: chunked"), 400),
    "coding and length 0": (coded(b" chunked\r\nContent-Length: 0"), 400),
    "unknown coding and length": (coded(b" gzip\r\nContent-Length: 5"), 400),
    "coding in HTTP/1.0": (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "unknown coding in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "no coding": (coded(b""), 400),
    "identity": (coded(b" identity"), 400),
    "gzip alone": (coded(b" gzip"), 400),
    "chunked, then gzip": (coded(b" chunked, gzip"), 400),
    "chunked, then identity": (coded(b" chunked, identity"), 400),
    "chunked twice": (coded(b" chunked, chunked"), 400),
    "chunked twice in two lines": (coded(b" chunked\r\nTransfer-Encoding: chunked"), 400),
    "chunked, then gzip in two lines": (coded(b" chunked\r\nTransfer-Encoding: gzip"), 400),
    "gzip, then chunked": (coded(b" gzip, chunked"), 501),
    "gzip, then chunked in two lines": (coded(b" gzip\r\nTransfer-Encoding: chunked"), 501),
    "identity, then chunked": (coded(b" identity, chunked"), 501),
    "unknown, then chunked": (coded(b" rot13,chunked"), 501),
    "two unknown, then chunked": (coded(b" compress, deflate, chunked"), 501),
    "chunked and a comma": (coded(b" chunked,"), 400),
    "a comma and chunked": (coded(b" ,chunked"), 400),
    "two commas": (coded(b" gzip,,chunked"), 400),
    "chunked with a parameter": (coded(b" chunked;a=b"), 400),
    "chunked in quotes": (coded(b' "chunked"'), 400),
    "chunked and a word": (coded(b" chunked x"), 400),
    "xchunked": (coded(b" xchunked"), 400),
    "chunkedchunked": (coded(b" chunkedchunked"), 400),
    "chunk": (coded(b" chunk"), 400),
    "chunked behind a vertical tab": (coded(b" \x0bchunked"), 400),
    "chunked behind NUL": (coded(b" \0chunked"), 400),
    "chunked behind a no-break space": (coded(b" \xa0chunked"), 400),
    "a space within chunked": (coded(b" chun ked"), 400),
    "a coding that is no token": (coded(b" a b, chunked"), 400),
    # ---- chunks (section 7.1) ----
    "no size": (chunks(b"\r\nhello\r\n0\r\n\r\n"), 400),
    "only an extension": (chunks(b";a=b\r\nhello\r\n0\r\n\r\n"), 400),
    "negative size": (chunks(b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "size with a plus": (chunks(b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "size with 0x": (chunks(b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "size with h": (chunks(b"5h\r\nhello\r\n0\r\n\r\n"), 400),
    "size with an underscore": (chunks(b"0_5\r\nhello\r\n0\r\n\r\n"), 400),
    "size with a point": (chunks(b"5.\r\nhello\r\n0\r\n\r\n"), 400),
    "size with a letter beyond f": (chunks(b"g\r\nhello\r\n0\r\n\r\n"), 400),
    "size of 17 digits": (chunks(b"00000000000000005\r\nhello\r\n0\r\n\r\n"), 400),
    "size that overflows to 5": (chunks(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), 400),
    "space before the size": (chunks(b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "space after the size": (chunks(b"5 \r\nhello\r\n0\r\n\r\n"), 400),
    "tab after the size": (chunks(b"5\t\r\nhello\r\n0\r\n\r\n"), 400),
    "two sizes": (chunks(b"5 5\r\nhello\r\n0\r\n\r\n"), 400),
    "size with a comma": (chunks(b"5,a\r\nhello\r\n0\r\n\r\n"), 400),
    "NUL after the size": (chunks(b"5\0\r\nhello\r\n0\r\n\r\n"), 400),
    "superscript size": (chunks(b"\xb2\r\nhello\r\n0\r\n\r\n"), 400),
    "bare LF after the size": (chunks(b"5\nhello\r\n0\r\n\r\n"), 400),
    "bare CR after the size": (chunks(b"5\rhello\r\n0\r\n\r\n"), 400),
    "CR CR LF after the size": (chunks(b"5\r\r\nhello\r\n0\r\n\r\n"), 400),
    "bare LF after the data": (chunks(b"5\r\nhello\n0\r\n\r\n"), 400),
    "bare CR after the data": (chunks(b"5\r\nhello\r0\r\n\r\n"), 400),
    "nothing after the data": (chunks(b"5\r\nhello0\r\n\r\n"), 400),
    "more data than announced": (chunks(b"5\r\nhello!\r\n0\r\n\r\n"), 400),
    "less data than announced": (chunks(b"6\r\nhello\r\n0\r\n\r\n"), 400),
    "two line ends after the data": (chunks(b"5\r\nhello\r\n\r\n0\r\n\r\n"), 400),
    "extension without a name": (chunks(b"5;\r\nhello\r\n0\r\n\r\n"), 400),
    "extension without a name, with a value": (chunks(b"5;=b\r\nhello\r\n0\r\n\r\n"), 400),
    "extension without a value": (chunks(b"5;a=\r\nhello\r\n0\r\n\r\n"), 400),
    "two semicolons": (chunks(b"5;;a\r\nhello\r\n0\r\n\r\n"), 400),
    "semicolon at the end": (chunks(b"5;a=b;\r\nhello\r\n0\r\n\r\n"), 400),
    "space after an extension": (chunks(b"5;a=b \r\nhello\r\n0\r\n\r\n"), 400),
    "extension with a space inside": (chunks(b"5;a b\r\nhello\r\n0\r\n\r\n"), 400),
    "extension with a quote left open": (chunks(b'5;a="b\r\nhello\r\n0\r\n\r\n'), 400),
    "extension with text after the quote": (chunks(b'5;a="b"c\r\nhello\r\n0\r\n\r\n'), 400),
    "extension with an escaped end": (chunks(b'5;a="b\\"\r\nhello\r\n0\r\n\r\n'), 400),
    "extension with NUL": (chunks(b"5;a=\0\r\nhello\r\n0\r\n\r\n"), 400),
    "extension with a control in quotes": (chunks(b'5;a="\x01"\r\nhello\r\n0\r\n\r\n'), 400),
    "extension with bare LF": (chunks(b"5;a\nhello\r\n0\r\n\r\n"), 400),
    "extension with bare CR": (chunks(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
    "extension with LF in quotes": (chunks(b'5;a="\n"\r\nhello\r\n0\r\n\r\n'), 400),
    "extension too long": (chunks(b"5;a=" + b"b" * 2000 + b"\r\nhello\r\n0\r\n\r\n"), 400),
    "extensions too many": (chunks(b"1;a=" + b"b" * 900 + b"\r\n0" + b"\r\n1;a=%b\r\n0" % (b"b" * 900) * 20), 400),
    # ---- trailers (section 7.1.2, RFC 9110 6.5) ----
    "trailer without a colon": (chunks(b"0\r\nA\r\n\r\n"), 400),
    "trailer with a space before the colon": (chunks(b"0\r\nA : b\r\n\r\n"), 400),
    "folded trailer": (chunks(b"0\r\nA: b\r\n c\r\n\r\n"), 400),
    "trailer begins with a space": (chunks(b"0\r\n A: b\r\n\r\n"), 400),
    "trailer ends in a bare LF": (chunks(b"0\r\nA: b\n\r\n"), 400),
    "trailer with a bare CR": (chunks(b"0\r\nA: b\rc\r\n\r\n"), 400),
    "trailer with NUL": (chunks(b"0\r\nA: \0\r\n\r\n"), 400),
    "bare LF ends the body": (chunks(b"0\r\n\n"), 400),
    "bare LF after the last size": (chunks(b"0\n\r\n"), 400),
    "CR CR ends the body": (chunks(b"0\r\n\r\r"), 400),
    "nothing ends the body": (chunks(b"0\r\n"), 400),  # the request behind it reads as a trailer without a colon
    "Content-Length as a trailer": (chunks(b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "Transfer-Encoding as a trailer": (chunks(b"0\r\ntransfer-encoding: chunked\r\n\r\n"), 400),
    "Host as a trailer": (chunks(b"0\r\nA: b\r\nHost: b\r\n\r\n"), 400),
    "Connection as a trailer": (chunks(b"0\r\nConnection: close\r\n\r\n"), 400),
    "trailers too large": (chunks(b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n"), 431),
    "trailers too many": (chunks(b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n"), 431),
    # ---- Expect (RFC 9110 10.1.1) ----
    "unknown expectation": (sized(b" 5\r\nExpect: 200-ok"), 417),
    "empty expectation": (sized(b" 5\r\nExpect:"), 417),
    "two expectations": (sized(b" 5\r\nExpect: 100-continue, a=b"), 417),
    "two expectations in two lines": (sized(b" 5\r\nExpect: 100-continue\r\nExpect: x"), 417),
    "expectation with a parameter": (sized(b" 5\r\nExpect: 100-continue;a=b"), 417),
    "unknown expectation in lower case": (sized(b" 5\r\nexpect: x"), 417),
    "unknown expectation in upper case": (sized(b" 5\r\nEXPECT: X"), 417),
    "unknown expectation without a body": (field(b"Expect: a"), 417),
    # ---- limits (sections 3 and 5.4, RFC 6585 5) ----
    "target too long": (target(b"/" + b"a" * 8200), 414),
    "query too long": (target(b"/?" + b"a" * 8200), 414),
    "method too long": (line(b"G" * 8200 + b" / HTTP/1.1"), 414),
    "request line one byte too long": (target(b"/" + b"a" * (8193 - 14)), 414),
    "request line without end": (b"GET /" + b"a" * 9000, 414),
    "request line much too long": (target(b"/" + b"a" * 100_000), 414),
    "field too large": (field(b"A: " + b"b" * 65536), 431),
    "field name too large": (field(b"A" * 65536 + b": b"), 431),
    "fields too large": (HEAD + b"A: %b\r\n" % (b"b" * 1000) * 70 + b"\r\n", 431),
    "fields without end": (HEAD + b"A: %b\r\n" % (b"b" * 1000) * 70, 431),
    "fields too many": (HEAD + b"A: b\r\n" * 100 + b"\r\n", 431),
    "fields too many, the shortest": (HEAD + b"A:\r\n" * 100 + b"\r\n", 431),
    "fields too many, then malformed": (HEAD + b"A: b\r\n" * 100 + b"malformed\r\n\r\n", 431),
    "malformed, then too many": (HEAD + b"malformed\r\n" + b"A: b\r\n" * 100 + b"\r\n", 400),
}


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 150
    assert len({data for data, _ in CASES.values()}) == len(CASES), "a case is there twice"


@pytest.mark.parametrize(("data", "status"), CASES.values(), ids=list(CASES))
def test_whole(data: bytes, status: int) -> None:
    outcome = run(data + FOLLOW_UP)
    assert outcome == ((), status, "closed")


@pytest.mark.parametrize(("data", "status"), CASES.values(), ids=list(CASES))
def test_byte_by_byte(data: bytes, status: int) -> None:
    outcome = run(single_bytes(data[:70_000] + FOLLOW_UP))
    assert outcome == ((), status, "closed")


@pytest.mark.parametrize(("data", "status"), CASES.values(), ids=list(CASES))
def test_behind_a_valid_request(data: bytes, status: int) -> None:
    """Pipelined: the first is served, the second refused, the third is not served."""
    first = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"
    outcome = run(first + data + FOLLOW_UP)
    assert (outcome.targets, outcome.status) == (["/first"], status)


@pytest.mark.parametrize(("data", "status"), CASES.values(), ids=list(CASES))
def test_the_reason_is_one_line_of_ours(data: bytes, status: int) -> None:
    engine = Engine()
    engine.feed(data + FOLLOW_UP)
    assert engine.reason.isprintable()
    assert 5 < len(engine.reason) < 80
    assert engine.status == status


EARLY = {
    "TLS": (b"\x16", 400),
    "space": (b" ", 400),
    "control in the method": (b"GE\x01", 400),
    "HTTP/0.9 at its second word": (b"GET /\r\n", 400),
    "control in the target": (b"GET /\x01", 400),
    "high byte in the target": (b"GET /\xff", 400),
    "not a version": (b"GET / X", 400),
    "wrong version": (b"GET / HTTP/2.0\r\n", 505),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\n", 501),
    "fragment": (b"GET /#a HTTP/1.1\r\n", 400),
    "space before the colon": (HEAD + b"A ", 400),
    "name without a colon": (HEAD + b"A\r", 400),
    "folded": (HEAD + b" ", 400),
    "control in a value": (HEAD + b"A: \x01", 400),
    "bare CR": (HEAD + b"A: b\rc", 400),
    "bare LF": (HEAD + b"A: b\n", 400),
    "CR behind the last empty line": (b"\r\n" * 4 + b"\r", 400),
    "not LF behind the last CR": (HEAD + b"\rX", 400),
    "request line": (b"GET /" + b"a" * 8188, 414),
    "head": (HEAD + b"A: " + b"b" * (65536 - len(HEAD) - 3), 431),
    "fields": (HEAD + b"A: b\r\n" * 100, 431),
    "chunk size with a sign": (chunks(b"-"), 400),
    "chunk size with bare LF": (chunks(b"5\n"), 400),
    "chunk size with too many digits": (chunks(b"0" * 17), 400),
    "chunk data with too much": (chunks(b"1\r\nab"), 400),
    "chunk extension too long": (chunks(b"1;" + b"a" * (1024 - 4)), 400),
    "trailer with a space": (chunks(b"0\r\nA "), 400),
    "trailer too large": (chunks(b"0\r\nA: " + b"b" * (8192 - 3)), 431),
}


@pytest.mark.parametrize(("data", "status"), EARLY.values(), ids=list(EARLY))
def test_an_error_is_reported_as_soon_as_it_is_known(data: bytes, status: int | None) -> None:
    """With the last byte of each of these, and not one byte before it."""
    assert run(single_bytes(data)).status == status
    assert run(single_bytes(data[:-1])).status is None


def test_limits_are_exact() -> None:
    """The largest that is allowed passes; one more of anything does not."""
    limits = http1.Limits(line=40, head=200, fields=5, trailer=30, chunk=20, extensions=30)

    def status(data: bytes) -> int | None:
        outcomes = {run(data, limits).status, run(single_bytes(data), limits).status}
        assert len(outcomes) == 1
        return outcomes.pop()

    assert status(b"GET /" + b"a" * 26 + b" HTTP/1.1\r\nHost: a\r\n\r\n") is None
    assert status(b"GET /" + b"a" * 27 + b" HTTP/1.1\r\nHost: a\r\n\r\n") == 414
    rest = 200 - len(HEAD) - len(b"A: \r\n\r\n")
    assert status(HEAD + b"A: " + b"b" * rest + b"\r\n\r\n") is None
    assert status(HEAD + b"A: " + b"b" * (rest + 1) + b"\r\n\r\n") == 431
    assert status(HEAD + b"A: b\r\n" * 4 + b"\r\n") is None
    assert status(HEAD + b"A: b\r\n" * 5 + b"\r\n") == 431
    assert status(chunks(b"0\r\nA: " + b"b" * (30 - 7) + b"\r\n\r\n")) is None
    assert status(chunks(b"0\r\nA: " + b"b" * (30 - 6) + b"\r\n\r\n")) == 431
    assert status(chunks(b"0\r\n" + b"A:\r\n" * 5 + b"\r\n")) is None
    assert status(chunks(b"0\r\n" + b"A:\r\n" * 6 + b"\r\n")) == 431
    assert status(chunks(b"1;" + b"a" * (20 - 6) + b"\r\nx\r\n0\r\n\r\n")) is None
    assert status(chunks(b"1;" + b"a" * (20 - 5) + b"\r\nx\r\n0\r\n\r\n")) == 400
    two = b"1;aaaaaaaaa\r\nx\r\n" * 2
    assert status(chunks(two + b"0;aaaaaaaaa\r\n\r\n")) is None
    assert status(chunks(two + b"0;aaaaaaaaaa\r\n\r\n")) == 400
