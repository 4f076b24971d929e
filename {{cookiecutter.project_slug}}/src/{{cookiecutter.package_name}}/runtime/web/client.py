"""A client for tests: `routes.client()` asks the handlers without sockets, `routes.client(URL)` a service that runs."""

import json as json_module
import random
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol

from .fields import escape

SAFE = "-._~"
File = tuple[str, bytes, str]  # name, content, content type


class Transport(Protocol):
    """What carries a request."""

    def send(self, method: str, target: str, fields: list[tuple[str, str]], body: bytes) -> "Answer":
        """Raises ConnectionError when a response breaks off."""

    def close(self) -> None: ...


class Fields(Mapping[str, str]):
    """Fields by name, in any case; several of one name joined by ", "."""

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self.list = list(fields)

    def __getitem__(self, name: str) -> str:
        values = [value for own, value in self.list if own.lower() == name.lower()]
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower() for name, _ in self.list))

    def __len__(self) -> int:
        return len(list(iter(self)))


class Answer:
    """A response as a client gets it."""

    def __init__(self, status: int, reason: str, fields: Iterable[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = Fields(fields)  # `headers.list` has each line
        self.body = body

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json_module.loads(self.body)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.reason} {self.body[:200]!r}>"


class Client:
    """Asks, keeps cookies between requests, and adds `headers` to each. Use it in a `with` statement, or call `close`,
    where `exit` and `worker_exit` matter."""

    def __init__(self, transport: Transport, headers: Mapping[str, str] | None = None) -> None:
        self.transport = transport
        self.headers = dict(headers or {})
        self.cookies: dict[str, str] = {}

    def request(
        self, method: str, target: str, *, params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None, body: bytes | str = b"", json: Any = None,
        form: Mapping[str, str] | None = None, files: Mapping[str, File] | None = None,
    ) -> Answer:  # fmt: skip
        """Ask for a target such as "/orders?page=2" (sent as it is), with more query parameters in `params`. The body
        is given as it is, as `json`, or as the fields of a `form`, with `files`: of each its name, content, type."""
        fields = {"host": "test", **lower(self.headers)}
        if json is not None:
            body, fields["content-type"] = json_module.dumps(json).encode(), "application/json"
        elif files is not None:
            body, fields["content-type"] = multipart(form or {}, files)
        elif form is not None:
            body, fields["content-type"] = urlencoded(form), "application/x-www-form-urlencoded"
        data = body.encode() if isinstance(body, str) else body
        if self.cookies:
            fields["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if data or method in ("POST", "PUT", "PATCH"):
            fields["content-length"] = str(len(data))
        fields |= lower(headers or {})
        if params:
            target += ("&" if "?" in target else "?") + urlencoded(params).decode()
        answer = self.transport.send(method, target, list(fields.items()), data)
        for name, value in answer.headers.list:
            if name.lower() == "set-cookie":
                self.keep(value)
        return answer

    def keep(self, cookie: str) -> None:
        """Keep a cookie, whatever its domain and path; forget it when it says so."""
        pair, *attributes = cookie.split("; ")
        name, _, value = pair.partition("=")
        if "Max-Age=0" in attributes:
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value

    def get(self, target: str, **more: Any) -> Answer:
        """`request` with this method; so are those below."""
        return self.request("GET", target, **more)

    def head(self, target: str, **more: Any) -> Answer:
        return self.request("HEAD", target, **more)

    def options(self, target: str, **more: Any) -> Answer:
        return self.request("OPTIONS", target, **more)

    def post(self, target: str, **more: Any) -> Answer:
        return self.request("POST", target, **more)

    def put(self, target: str, **more: Any) -> Answer:
        return self.request("PUT", target, **more)

    def patch(self, target: str, **more: Any) -> Answer:
        return self.request("PATCH", target, **more)

    def delete(self, target: str, **more: Any) -> Answer:
        return self.request("DELETE", target, **more)

    def close(self) -> None:
        """Run `worker_exit` and `exit`."""
        self.transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.close()


class Remote:
    """A transport to a service that runs."""

    def __init__(self, base_url: str) -> None:
        scheme, _, rest = base_url.partition("://")
        authority, slash, prefix = rest.partition("/")
        if scheme not in ("http", "https") or not authority:
            raise ValueError(f"a base URL is http://host:port or https://host:port, not {base_url!r}")
        self.is_secure = scheme == "https"
        self.authority = authority
        self.prefix = (slash + prefix).rstrip("/")

    def send(self, method: str, target: str, fields: list[tuple[str, str]], body: bytes) -> Answer:
        from http.client import HTTPConnection, HTTPException, HTTPSConnection

        connection = (HTTPSConnection if self.is_secure else HTTPConnection)(self.authority, timeout=60)
        try:
            connection.putrequest(method, self.prefix + target, skip_host=True, skip_accept_encoding=True)
            for name, value in fields:
                connection.putheader(name, self.authority if (name, value) == ("host", "test") else value)
            connection.endheaders(body)
            found = connection.getresponse()
            return Answer(found.status, found.reason, found.getheaders(), found.read())
        except HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def close(self) -> None:
        pass


def lower(fields: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in fields.items()}


def urlencoded(pairs: Mapping[str, Any]) -> bytes:
    """Of a list each element is a pair of its own."""
    parts = []
    for name, value in pairs.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            parts.append(f"{escape(name, SAFE)}={escape(str(one), SAFE)}")
    return "&".join(parts).encode()


def multipart(form: Mapping[str, str], files: Mapping[str, File]) -> tuple[bytes, str]:
    """multipart/form-data (RFC 7578), names escaped as browsers do it (WHATWG HTML, multipart form data)."""

    def quoted(name: str) -> str:
        return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")

    boundary = f"{random.getrandbits(128):032x}"
    start = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    parts = [f'{start}{quoted(name)}"\r\n\r\n{value}\r\n'.encode() for name, value in form.items()]
    for name, (filename, content, kind) in files.items():
        head = f'{start}{quoted(name)}"; filename="{quoted(filename)}"\r\nContent-Type: {kind}\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
