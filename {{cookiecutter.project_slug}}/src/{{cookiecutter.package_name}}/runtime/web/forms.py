"""Forms: urlencoded, and multipart/form-data as it streams (RFC 7578, RFC 2046 5.1), with limits on all of it."""

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import IO, Any

from .fields import unescape
from .response import HTTPError

READ = 65536  # bytes at a time
IN_MEMORY = 65536  # bytes of a file that is kept in memory; a larger one is on disk
HEAD = 8192  # bytes of the fields of a part
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")  # RFC 2046 5.1.1
# A parameter of a field: as a token, or quoted as browsers and curl do it (see `unquoted`).
PARAMETER = re.compile(
    r"[ \t]*;[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(?:\"((?:[^\"\\]|\\.)*)\"|([!#$%&'*+\-.^_`|~0-9A-Za-z]+))[ \t]*"
)
FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
ENCODINGS = ("7bit", "8bit", "binary")


class MissingFieldError(HTTPError, KeyError):
    """A form has no such field: answered with 400, unless the handler does something about it."""


class Upload:
    """A file of a form. `file` is open at its begin; it is on disk if it is large, without a name, and gone with the
    request. `filename` is what the client says: no path to be used as it is."""

    def __init__(self, filename: str, content_type: str, file: IO[bytes]) -> None:
        self.filename = filename
        self.content_type = content_type
        self.file = file
        self.size = 0  # bytes

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def save(self, path: "str | PathLike[str]") -> None:
        """Write a copy. Raises OSError."""
        self.file.seek(0)
        with open(path, "wb") as target:
            while piece := self.file.read(READ):
                target.write(piece)


class Form(Mapping[str, str]):
    """The fields of a form by name, of several with one name the last (see `fields`); and its `files` by name."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []  # in order
        self.file_list: list[tuple[str, Upload]] = []

    def __getitem__(self, name: str) -> str:
        for own, value in reversed(self.fields):
            if own == name:
                return value
        raise MissingFieldError(400, f"the form has no field {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self.fields))

    def __len__(self) -> int:
        return len(dict(self.fields))

    def getlist(self, name: str) -> list[str]:
        """All values of a name."""
        return [value for own, value in self.fields if own == name]

    @property
    def files(self) -> dict[str, Upload]:
        """Files by the names of their fields, of several with one name the last (see `file_list`). A file field for
        which none was chosen is not among them."""
        return dict(self.file_list)


class Limits:
    """Of a form: most parts, most bytes of the fields together, most bytes of a file (0: as many as the body)."""

    def __init__(self, parts: int, fields: int, file: int) -> None:
        self.parts = parts
        self.fields = fields
        self.file = file
        self.fields_left = fields

    def check_parts(self, count: int) -> None:
        if count > self.parts:
            raise HTTPError(413, f"the form has more than {self.parts} parts")

    def take(self, size: int) -> None:
        """So many bytes of fields are in memory."""
        self.fields_left -= size
        if self.fields_left < 0:
            raise HTTPError(413, f"the fields of the form have more than {self.fields} bytes")


def read_form(content_type: str, read: Callable[[int], bytes], limits: Limits) -> Form:
    """The form that a body holds, read by `read`. Raises HTTPError: 415 for what is no form, 400 for a malformed one,
    413 above a limit, 507 when a disk is full."""
    kind, _, rest = content_type.partition(";")
    kind = kind.strip(" \t").lower()
    if kind == "application/x-www-form-urlencoded":
        return urlencoded(read, limits)
    if kind != "multipart/form-data":
        raise HTTPError(415, "a form is application/x-www-form-urlencoded or multipart/form-data")
    parameters = parse_parameters(";" + rest)
    boundary = parameters.get("boundary", "")
    if not BOUNDARY.fullmatch(boundary):
        raise HTTPError(400, "multipart/form-data without a valid boundary")
    try:
        return Multipart(boundary.encode(), read, limits).parse()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise HTTPError(507, "no room for the files of the form") from None
        raise


def urlencoded(read: Callable[[int], bytes], limits: Limits) -> Form:
    pieces = []
    while piece := read(READ):
        limits.take(len(piece))
        pieces.append(piece)
    form = Form()
    try:
        pairs = [part for part in b"".join(pieces).decode().split("&") if part]
    except UnicodeDecodeError:
        raise HTTPError(400, "the form is not UTF-8") from None
    limits.check_parts(len(pairs))
    for pair in pairs:
        name, _, value = pair.replace("+", " ").partition("=")
        form.fields.append((unescape(name), unescape(value)))
    return form


def parse_parameters(text: str) -> dict[str, str]:
    """The parameters of a field's value, from the first semicolon on; names in lower case. Raises HTTPError (400)."""
    found: dict[str, str] = {}
    text = text.rstrip(" \t;")
    at = 0
    while at < len(text):
        match = PARAMETER.match(text, at)
        if match is None or match[1].lower() in found:
            raise HTTPError(400, "malformed or repeated parameter in a field of the form")
        found[match[1].lower()] = unquoted(match[2]) if match[2] is not None else match[3]
        at = match.end()
    return found


def unquoted(text: str) -> str:
    """A quoted string: of RFC 9110 5.6.4 only the escapes of quote and backslash, because browsers have sent paths with
    single backslashes; and those that browsers use (WHATWG HTML, multipart form data)."""
    text = re.sub(r'\\(["\\])', r"\1", text)
    return re.sub(r"%(22|0[AaDd])", lambda found: chr(int(found[1], 16)), text)


class Multipart:
    """Reads one body. The delimiter has the CRLF before it; the body is read as if one were in front of it."""

    def __init__(self, boundary: bytes, read: Callable[[int], bytes], limits: Limits) -> None:
        self.delimiter = b"\r\n--" + boundary
        self.read = read
        self.limits = limits
        self.buffer = b"\r\n"
        self.form = Form()

    def parse(self) -> Form:
        if self.until_delimiter(self.refuse):
            raise HTTPError(400, "the form does not begin with its boundary")
        count = 0
        while self.has_next():
            count += 1
            self.limits.check_parts(count)
            self.part()
        while self.read(READ):  # an epilogue means nothing (RFC 2046 5.1.1)
            pass
        return self.form

    def refuse(self, data: bytes) -> None:
        raise HTTPError(400, "the form does not begin with its boundary")

    def more(self) -> None:
        piece = self.read(READ)
        if not piece:
            raise HTTPError(400, "the form ends before its last boundary")
        self.buffer += piece

    def until_delimiter(self, sink: Callable[[bytes], Any]) -> int:
        """Give all before the next delimiter to `sink`; returns how many bytes that were. The buffer then begins with
        what follows the delimiter."""
        size, keep = 0, len(self.delimiter) - 1
        while (at := self.buffer.find(self.delimiter)) < 0:
            if len(self.buffer) > keep:
                size += len(self.buffer) - keep
                sink(self.buffer[:-keep])
                self.buffer = self.buffer[-keep:]
            self.more()
        if at:
            sink(self.buffer[:at])
        self.buffer = self.buffer[at + len(self.delimiter) :]
        return size + at

    def has_next(self) -> bool:
        """After a delimiter: whether a part follows."""
        while len(self.buffer) < 2:
            self.more()
        if self.buffer.startswith(b"--"):
            return False
        while b"\n" not in self.buffer and len(self.buffer) < 256:
            self.more()
        padding, found, self.buffer = self.buffer.partition(b"\r\n")
        if not found or padding.strip(b" \t"):
            raise HTTPError(400, "a boundary of the form is followed by something else")
        return True

    def fields(self) -> dict[str, str]:
        """The fields of a part, names in lower case."""
        self.buffer = b"\r\n" + self.buffer  # a part may have none
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            if len(self.buffer) > HEAD:
                raise HTTPError(413, f"the fields of a part of the form have more than {HEAD} bytes")
            self.more()
        if end > HEAD:
            raise HTTPError(413, f"the fields of a part of the form have more than {HEAD} bytes")
        lines, self.buffer = self.buffer[:end].split(b"\r\n")[1:], self.buffer[end + 4 :]
        while len(self.buffer) < len(self.delimiter):
            self.more()
        if self.buffer.startswith(self.delimiter[2:]):  # RFC 2046 allows it, other parsers read on
            raise HTTPError(400, "a part of the form has no content")
        found: dict[str, str] = {}
        for line in lines:
            match = FIELD.fullmatch(line)
            if match is None or match[1].lower().decode() in found:
                raise HTTPError(400, "malformed or repeated field in a part of the form")
            try:
                found[match[1].lower().decode()] = match[2].decode()
            except UnicodeDecodeError:
                raise HTTPError(400, "a field of a part of the form is not UTF-8") from None
        return found

    def part(self) -> None:
        fields = self.fields()
        kind, _, rest = fields.get("content-disposition", "").partition(";")
        parameters = parse_parameters(";" + rest)
        name = parameters.get("name")
        if kind.strip(" \t").lower() != "form-data" or name is None:
            raise HTTPError(400, "a part of the form has no name")
        if fields.get("content-transfer-encoding", "binary").lower() not in ENCODINGS:
            raise HTTPError(400, "a part of the form has a Content-Transfer-Encoding: RFC 7578 knows none")
        filename = parameters.get("filename")
        if "filename*" in parameters:  # RFC 8187; RFC 7578 4.2 has it no more, but some libraries do
            charset, _, escaped = parameters["filename*"].partition("''")
            if charset.lower() != "utf-8":
                raise HTTPError(400, "malformed filename* in a part of the form")
            filename = unescape(escaped)
        if filename is None:
            self.field(name)
        else:
            self.file(name, filename, fields.get("content-type", "application/octet-stream"))

    def field(self, name: str) -> None:
        pieces: list[bytes] = []

        def keep(piece: bytes) -> None:
            self.limits.take(len(piece))
            pieces.append(piece)

        self.limits.take(len(name))
        self.until_delimiter(keep)
        try:
            self.form.fields.append((name, b"".join(pieces).decode()))
        except UnicodeDecodeError:
            raise HTTPError(400, "a field of the form is not UTF-8") from None

    def file(self, name: str, filename: str, content_type: str) -> None:
        from tempfile import SpooledTemporaryFile  # for those that have files

        file: Any = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 the form's
        upload = Upload(filename, content_type, file)

        def keep(piece: bytes) -> None:
            upload.size += len(piece)
            if self.limits.file and upload.size > self.limits.file:
                raise HTTPError(413, f"a file of the form has more than {self.limits.file} bytes")
            file.write(piece)

        self.limits.take(len(name) + len(filename))
        self.until_delimiter(keep)
        if filename or upload.size:
            file.seek(0)
            self.form.file_list.append((name, upload))
