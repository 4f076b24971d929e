"""Serves the files below a directory: what `Router.static` adds."""

import os
from collections.abc import Callable

from .fields import preferred
from .files import Slice, opened_below, type_of, validators
from .messages import Request
from .response import HTTPError, Response

CODINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}  # content codings, the best first, and the ends of names
SHOWN = ".well-known"  # RFC 8615; no other name that begins with a dot is served


def handler(root: str, index: str, cache: str, precompressed: bool) -> Callable[[Request], Response]:
    """A handler for `{path:path}` below this directory."""

    def static(request: Request) -> Response:
        """Send a file, a part of it, or that it has not changed."""
        names = request.params["path"].split("/")
        if names[-1] == "":  # a directory
            names[-1] = index
        if "%2f" in request.head.path.lower() or any(one.startswith(".") and one != SHOWN for one in names):
            raise HTTPError(404)
        try:
            file = opened_below(root, names)
        except IsADirectoryError:
            return to_index(request, root, [*names, index])
        except PermissionError:
            raise HTTPError(403) from None
        except OSError:
            raise HTTPError(404) from None
        file, coding = variant(request, root, names, file) if precompressed else (file, "")
        headers = [("Accept-Ranges", "bytes"), *validators(file, coding)]
        if cache:
            headers.append(("Cache-Control", cache))
        if precompressed:
            headers.append(("Vary", "Accept-Encoding"))
        if coding:
            headers.append(("Content-Encoding", coding))
        return Response(file, 200, headers, type_of(names[-1]))

    return static


def to_index(request: Request, root: str, names: list[str]) -> Response:
    """To the same path with a slash, so that the links of the index lead where they should. It has no empty segment, so
    it is no other host's."""
    try:
        opened_below(root, names).close()
    except OSError:
        raise HTTPError(404) from None
    query = request.head.query
    return Response.redirect(request.head.path + "/" + (f"?{query}" if query else ""), 301)


def variant(request: Request, root: str, names: list[str], file: Slice) -> tuple[Slice, str]:
    """The file, or one beside it that is the same compressed, and how. One that is older is of an earlier version."""
    accepted = request.headers.get("accept-encoding", "")
    offered = list(CODINGS) if accepted else []
    while coding := preferred(accepted, offered):
        try:
            packed = opened_below(root, [*names[:-1], names[-1] + CODINGS[coding]])
        except OSError:
            offered.remove(coding)
            continue
        if int(os.fstat(packed.fileno()).st_mtime) >= int(os.fstat(file.fileno()).st_mtime):
            file.close()
            return packed, coding
        packed.close()
        offered.remove(coding)
    return file, ""
