"""Files from disk: opened below a directory and never outside it, with their type and their validators."""

import errno
import io
import os
import stat
import time

from .fields import date_of

TEXTS = {  # UTF-8, as far as a name can say
    "css": "text/css", "csv": "text/csv", "htm": "text/html", "html": "text/html", "ics": "text/calendar",
    "js": "text/javascript", "log": "text/plain", "md": "text/markdown", "mjs": "text/javascript",
    "py": "text/x-python", "txt": "text/plain", "vtt": "text/vtt",
}  # fmt: skip
TYPES = {name: f"{kind}; charset=utf-8" for name, kind in TEXTS.items()} | {
    "7z": "application/x-7z-compressed", "aac": "audio/aac", "apng": "image/apng", "avif": "image/avif",
    "avi": "video/x-msvideo", "bmp": "image/bmp", "bz2": "application/x-bzip2", "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "eot": "application/vnd.ms-fontobject",
    "epub": "application/epub+zip", "flac": "audio/flac", "gif": "image/gif", "gz": "application/gzip",
    "ico": "image/vnd.microsoft.icon", "jpeg": "image/jpeg", "jpg": "image/jpeg", "json": "application/json",
    "jsonld": "application/ld+json", "m4a": "audio/mp4", "map": "application/json", "mkv": "video/matroska",
    "mov": "video/quicktime", "mp3": "audio/mpeg", "mp4": "video/mp4", "mpeg": "video/mpeg",
    "odp": "application/vnd.oasis.opendocument.presentation", "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text", "ogg": "audio/ogg", "oga": "audio/ogg", "ogv": "video/ogg",
    "opus": "audio/ogg", "otf": "font/otf", "pdf": "application/pdf", "png": "image/png",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation", "ps": "application/postscript",
    "rar": "application/vnd.rar", "rtf": "application/rtf", "svg": "image/svg+xml", "svgz": "image/svg+xml",
    "tar": "application/x-tar", "tgz": "application/gzip", "tif": "image/tiff", "tiff": "image/tiff", "ttf": "font/ttf",
    "wasm": "application/wasm", "wav": "audio/wav", "webm": "video/webm", "webmanifest": "application/manifest+json",
    "webp": "image/webp", "woff": "font/woff", "woff2": "font/woff2", "xhtml": "application/xhtml+xml",
    "xml": "application/xml",    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xz": "application/x-xz",
    "yaml": "application/yaml", "yml": "application/yaml", "zip": "application/zip", "zst": "application/zstd",
}  # fmt: skip
LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
# A FIFO would wait for its writer, a terminal could become ours.
READ = LOOK | os.O_NONBLOCK | os.O_NOCTTY


class Slice(io.FileIO):
    """An open file of which `limit` bytes from its position on are sent, however it grows."""

    limit = 0


def type_of(name: str) -> str:
    """The content type that the end of a file's name says. A table of its own: what the system has for it differs from
    machine to machine."""
    return TYPES.get(name.rpartition(".")[2].lower() if "." in name else "", "application/octet-stream")


def opened(path: str, dir_fd: int | None = None, flags: int = READ & ~os.O_NOFOLLOW) -> Slice:
    """A regular file. Raises FileNotFoundError for one of another kind, OSError for what cannot be opened. Looks before
    it opens: opening wakes whatever is behind a FIFO or a device."""
    if not stat.S_ISREG(os.stat(path, dir_fd=dir_fd, follow_symlinks=not flags & os.O_NOFOLLOW).st_mode):
        raise FileNotFoundError(errno.ENOENT, "no regular file", path)
    return as_slice(os.open(path, flags, dir_fd=dir_fd), path)


def as_slice(fd: int, path: str) -> Slice:
    file = Slice(fd, "rb")
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):  # it was exchanged after the look at it
        file.close()
        raise FileNotFoundError(errno.ENOENT, "no regular file", path)
    file.limit = status.st_size
    return file


def opened_below(root: str, names: list[str]) -> Slice:
    """The file that these names lead to from a directory, through links too, but not to what lies outside. Raises
    FileNotFoundError when there is none, IsADirectoryError for a directory, PermissionError, other OSErrors.

    No name may be empty, "." or "..". Every step is made from the open directory of the last one without following a
    link. Where there are links the path is resolved first, and its steps are made in the same way: what is
    exchanged meanwhile leads nowhere.
    """
    if any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
        raise FileNotFoundError(errno.ENOENT, "no such file", "/".join(names))
    try:
        return walked(root, names)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENOENT):  # O_NOFOLLOW met a link
            raise
    base = os.path.realpath(root)
    real = os.path.realpath(os.path.join(base, *names))
    inside = os.path.relpath(real, base).split(os.sep)
    if inside[0] == os.pardir or inside == names:
        raise FileNotFoundError(errno.ENOENT, "no such file below the directory", "/".join(names))
    return walked(base, [] if inside == [os.curdir] else inside)


def walked(root: str, names: list[str]) -> Slice:
    """Open each of these in the last one, links never. Raises OSError; FileNotFoundError for what is no file."""
    directory = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for name in names[:-1]:
            inner = os.open(name, LOOK | os.O_DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        if not names or stat.S_ISDIR(os.stat(names[-1], dir_fd=directory, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, "a directory", "/".join(names))
        return opened(names[-1], directory, READ)
    finally:
        os.close(directory)


def validators(file: Slice, coding: str = "") -> list[tuple[str, str]]:
    """The fields that say which version of a file this is: ETag of its time and size (and content coding),
    Last-Modified (RFC 9110 8.8; never in the future)."""
    status = os.fstat(file.fileno())
    modified = min(status.st_mtime, time.time())
    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}{coding and "-" + coding}"'
    return [("ETag", tag), ("Last-Modified", date_of(max(0.0, modified)))]
