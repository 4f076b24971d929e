"""Request smuggling: what two programs on one path could read in two ways is read in one, or refused.

Every payload is written out and tries to get `GET /admin` past a front end that takes it for something else. It is
refused, or it is legal and what looks like a request is data: then the targets of all that is served are given, in
order, with the valid request that is always sent behind the payload. Numbers without a name are sections of RFC 9112.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from parsing import FOLLOW_UP, cut, run, single_bytes


class Payload(NamedTuple):
    name: str
    data: bytes
    targets: list[str]  # of the requests that are served
    status: int | None  # of the error that ends the connection


def refused(status: int, name: str, *pieces: bytes, first: list[str] | None = None) -> Payload:
    return Payload(name, b"".join(pieces), first or [], status)


def legal(targets: list[str], name: str, *pieces: bytes) -> Payload:
    return Payload(name, b"".join(pieces), targets, None)


PAYLOADS = [
    # ---- Content-Length against Transfer-Encoding (6.1, 6.3, 11.2) ----
    refused(
        400,
        "CL.TE, the classic (Watchfire 2005, CVE-2005-2088)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "TE.CL: length behind the coding",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        b"20\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    ),
    refused(
        400,
        "length 0 and a coding (CVE-2019-20445)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"20\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    ),
    refused(
        400,
        "both, names in mixed case",
        b"POST / HTTP/1.1\r\nHost: a\r\ncOnTeNt-LeNgTh: 5\r\ntRaNsFeR-eNcOdInG: cHuNkEd\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "both, far apart",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nA: 1\r\nB: 2\r\nConnection: keep-alive\r\nC: 3\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "both, with GET",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "both, in an order that hides the length behind the coding named in Connection",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "both, the coding unknown (CVE-2022-1705)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nTransfer-Encoding: foo\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "both, the coding identity",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "both, the coding empty",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\nContent-Length: 0\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    # ---- Transfer-Encoding in disguise (6.1, 7, 11.2; "TE.TE", PortSwigger 2019) ----
    refused(
        400,
        "xchunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "space before the colon (CVE-2019-16276, CVE-2019-16869)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "tab before the colon",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "vertical tab before chunked (CVE-2019-18277)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        b"0\r\n\r\nX GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "form feed behind chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x0c\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "NUL behind chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "byte 0xff before chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xffchunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "long s: a letter that lower() makes of no ASCII letter",
        b"POST / HTTP/1.1\r\nHost: a\r\nTran\xc5\xbffer-Encoding: chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "Kelvin sign: lower() makes an ASCII k of it",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun\xe2\x84\xaaed\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "folded coding (5.2, CVE-2022-32215)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "coding folded into another field",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "coding behind a bare LF in a value (CVE-2019-16785)",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "coding behind a bare CR in a value (CVE-2023-30589)",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "line end within the name",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\r\n: chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "space before the first field (2.2)",
        b"POST / HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "two codings, the second one nonsense (CVE-2020-8287)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: eee\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        501,
        "two codings, the first one nonsense",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: eee\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "chunked, identity (CVE-2020-1935, CVE-2024-6827)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "chunked, chunked (CVE-2024-1135)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "chunked behind an empty member",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "chunked in quotes",
        b'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "chunked"\r\n\r\n',
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "chunked with a parameter",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=0\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "coding in HTTP/1.0 (6.1)",
        b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "an underscore in the name: another field, which a gateway may take for the coding",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 39\r\n\r\n",
        b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n",
    ),
    # ---- Content-Length in disguise (6.3, RFC 9110 8.6) ----
    refused(
        400,
        "two lengths (CVE-2017-7658)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\nContent-Length: 0\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "two lengths, equal",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "two lengths in one line",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "length with a plus (CVE-2021-32715, CVE-2022-24801, CVE-2023-40167, CVE-2023-47627)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "negative length",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "negative zero",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "empty length (CVE-2023-40175, CVE-2023-40225)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "empty length beside another",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "hexadecimal length",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x20\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "length with an underscore, which int() allows",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3_2\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "digits of another script, which isdigit() and int() allow",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xd9\xa3\xd9\xa2\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "length with a trailing letter",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 32abc\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "length of 2**64 + 32",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551648\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "length with a space before the colon (CVE-2021-22959)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "space before the name of the length (CVE-2024-27982)",
        b"POST / HTTP/1.1\r\nHost: a\r\n Content-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "folded length",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "length without a colon (CVE-2019-20444)",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "a body with GET is a body (CL.0)",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "a body with HEAD is a body",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "a chunked body with OPTIONS is a body (TE.0)",
        b"OPTIONS / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"20\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "a body behind Upgrade: h2c is a body",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n",
        b"Content-Length: 32\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "Sec-WebSocket-Key1 brings no 8 bytes of body (gunicorn 20.0.4)",
        b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key1: x\r\nContent-Length: 0\r\n\r\n",
        b"xxxxxxxxGET /admin HTTP/1.1\r\nHost: a\r\nX: GET /follow-up HTTP/1.1\r\nHost: a\r\n\r\n",
        first=["/"],
    ),
    # ---- chunks (7.1, 11.2) ----
    refused(
        400,
        "size with 0x (CVE-2022-24801)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0x20\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    ),
    refused(
        400,
        "size with a plus",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"+0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "negative size",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "size with an underscore, which int() allows",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"2_0\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    ),
    refused(
        400,
        "size that overflows 64 bits (CVE-2017-7657, CVE-2021-32714)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"10000000000000000\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        [],
        "size that overflows 32 bits: the rest is its data",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"100000000\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "empty size, taken for 0 by some",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "bare LF behind the size (CVE-2025-22871)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "two other bytes where the CRLF of a chunk belongs (CVE-2025-43859)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\nAAAAAXX2\r\n45\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "bare LF behind the data",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nZ\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "data longer than its size, up to a line end",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nZZ\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "bare LF in an extension (CVE-2024-52304, CVE-2025-58056)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"2;\nxx\r\n4a\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "bare CR in an extension (CVE-2021-22960)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1;a\rb\r\nZ\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "line end in a quoted extension",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b'1;a="\r\nZ\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"\r\nZ\r\n0\r\n\r\n',
    ),
    legal(
        ["/", "/follow-up"],
        "quoted extension with a semicolon and a size: one chunk",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b'20;a=";0\\"";b\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n',
    ),
    refused(
        400,
        "size, NUL, size",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\x0020\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "space behind the size",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0 \r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "leading zeroes are legal, and zero",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0000\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "a last chunk within a chunk is data",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"25\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    ),
    # ---- trailers (7.1.2, RFC 9110 6.5) ----
    refused(
        400,
        "a request as the trailer of a body that has not ended",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "a request within a valid trailer is its value (CVE-2025-53643)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: GET /admin HTTP/1.1\r\n\r\n",
    ),
    refused(
        400,
        "a length as trailer",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "a coding as trailer",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: identity\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "another host as trailer",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "bare LF ends the trailers (CVE-2023-45648)",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\nA: b\n\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    # ---- lines (2.2, 3, 5) ----
    refused(
        400,
        "bare LF LF ends the head (2.2)",
        b"GET / HTTP/1.1\nHost: a\n\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "LF CR LF ends the head",
        b"GET / HTTP/1.1\r\nHost: a\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "CR CR LF LF in the head",
        b"GET / HTTP/1.1\r\nHost: a\r\r\n\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "CR alone as the end of every line",
        b"GET / HTTP/1.1\rHost: a\r\rGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "an empty field name ends the head for some (CVE-2023-25725)",
        b"POST / HTTP/1.1\r\nHost: a\r\n: x\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "a name of 270 bytes, which overflows a byte (CVE-2021-40346), is a name",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length0" + b"a" * 255 + b":\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "a line of one space, then a request",
        b"GET / HTTP/1.1\r\nHost: a\r\n \r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "HTTP/0.9 and a request as its body (CVE-2017-7656)",
        b"GET /\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "version in the target (CVE-2023-49081)",
        b"GET / HTTP/1.1\nHost: a HTTP/1.1\r\nHost: a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "a request in the method (CVE-2023-49082)",
        b"GET /admin HTTP/1.1\nX:  / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        505,
        "preface of HTTP/2, then a request",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "request behind a response",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    # ---- routing and the connection (3.2, 9.3, RFC 9110 7.2, 10.1.1) ----
    refused(
        400,
        "two Hosts",
        b"GET /admin HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
    ),
    refused(
        400,
        "a second Host behind a space (2.2)",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n Host: localhost\r\n\r\n",
    ),
    refused(
        400,
        "a second Host with a space before the colon",
        b"GET /admin HTTP/1.1\r\nHost: a\r\nHost : localhost\r\n\r\n",
    ),
    refused(
        400,
        "Host with userinfo: two readings of which part is the host",
        b"GET /admin HTTP/1.1\r\nHost: a@localhost\r\n\r\n",
    ),
    refused(
        400,
        "target with userinfo",
        b"GET http://a@localhost/admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        400,
        "fragment in the target: /admin for some",
        b"GET /admin#/../public HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/"],
        "nothing is read behind Connection: close (9.6)",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/"],
        "close wins over keep-alive (9.3)",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: x, Close\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/"],
        "HTTP/1.0 closes without being asked",
        b"GET / HTTP/1.0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        417,
        "an expectation in disguise (Kettle 2025)",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    legal(
        ["/", "/follow-up"],
        "an expectation does not make the body a request",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 32\r\n\r\n",
        b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    refused(
        501,
        "CONNECT opens no tunnel",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
]
every = pytest.mark.parametrize("payload", PAYLOADS, ids=[payload.name for payload in PAYLOADS])


def test_there_are_enough_payloads() -> None:
    assert len(PAYLOADS) >= 60
    assert len({payload.data for payload in PAYLOADS}) == len(PAYLOADS), "a payload is there twice"


@every
def test_whole(payload: Payload) -> None:
    outcome = run(payload.data + FOLLOW_UP)
    assert (outcome.targets, outcome.status) == (payload.targets, payload.status)


@every
def test_byte_by_byte(payload: Payload) -> None:
    outcome = run(single_bytes(payload.data + FOLLOW_UP))
    assert (outcome.targets, outcome.status) == (payload.targets, payload.status)


@every
def test_cut_once(payload: Payload) -> None:
    data = payload.data + FOLLOW_UP
    for place in range(len(data)):
        outcome = run(cut(data, [place]))
        assert (outcome.targets, outcome.status) == (payload.targets, payload.status), f"cut at {place}"
