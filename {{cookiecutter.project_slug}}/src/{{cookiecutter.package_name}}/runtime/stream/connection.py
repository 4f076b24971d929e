"""One connection of `stream` or `line`, from accept to close: the user's handler, how it fails, the access log."""

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ..config.settings import Config
from ..ipc import forks
from ..log.access_format import address_of, date
from ..log.frames import ACCESS
from ..log.records import COMPACT, INFO, channel, log, log_stacks, stamp
from ..pool.worker import Worker, WorkerFailed
from .accept_queue import Accepted
from .stream import Drain, Stream

LINGERING = 2.0  # seconds in which a client that still sends after our end may notice it
LINGERING_BYTES = 2**20  # that it may send in them


def opened(accepted: Accepted, config: Config, worker: Worker, drain: Drain) -> Stream:
    sock, peer = accepted
    stream = Stream(sock, peer, worker, drain)
    with suppress(OSError):  # macOS, of a connection that its client has reset: the first read raises it again
        stream.settimeout(config.idle_timeout or None)
    if config.access_log != "off":
        stream.on_end = partial(log_access, config.access_log)
    return stream


def serve(stream: Stream, service: Callable[[Stream], None], worker: Worker) -> bool:
    """Serve one connection to its end. False when the handler failed: its traceback is in the log, and the worker
    lives on."""
    good = True
    try:
        service(stream)
        forks.returned()
        stream.flush()
        if not stream.closed:
            stream.close_lingering(LINGERING, LINGERING_BYTES)
    except (WorkerFailed, SystemExit) as failure:
        forks.returned(failure)
        worker.failed(failure)
        good = False
    except BaseException as error:
        if error is not stream.error:  # raised by the handler, not by the connection
            log.exception("serving %s failed", shown(stream))
            forks.returned(error)
            good = False
        elif isinstance(error, TimeoutError):
            log.info("%s was silent for too long: closed", shown(stream))
        else:
            log.info("%s left: %s", shown(stream), stream.error.strerror or error)
    finally:
        if not good:
            send_rest(stream)
        if stream.on_end is not None:
            stream.on_end(stream, good)
        stream.closed = True
        stream.end()
    return good


def send_rest(stream: Stream) -> None:
    """Send what the handler wrote before it failed, if the client is still there."""
    try:
        stream.flush()
        stream.close_lingering(LINGERING, LINGERING_BYTES)
    except (OSError, ValueError):
        return


def shown(stream: Stream) -> str:
    return f"{stream.peer[0]}:{stream.peer[1]}" if stream.peer else "a local client"


def hangs(stream: Stream, limit: float, now: float) -> bool:
    """Whether its handler has run for more than `limit` seconds (--request-timeout) without reading or writing."""
    since = stream.running_since
    return bool(since) and now - since > limit


def expire(streams: list[Stream], limit: float) -> None:
    """Log where these handlers hang, and end their connections."""
    log.error("%s: a handler runs for more than %g s (--request-timeout): this process is replaced",
              ", ".join(shown(stream) for stream in streams), limit)  # fmt: skip
    log_stacks()
    for stream in streams:
        try:
            stream.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def log_access(form: str, stream: Stream, good: bool) -> None:
    """Write the line of a connection that has ended into the access log. Safe in any thread."""
    now, address = time.time(), address_of(stream.peer)
    if form == "combined":
        line = f'{address} - - {date(int(now))} "-" {"-" if good else 500} {stream.sent} "-" "-"\n'
    else:
        fields = {
            "time": stamp(now), "level": "info", "logger": "access", "role": channel.role, "pid": channel.pid,
            "client": address, "failed": not good, "received": stream.received,
            "sent": stream.sent, "seconds": round(time.monotonic() - stream.born, 6),
        }  # fmt: skip
        line = json.dumps(fields, separators=COMPACT) + "\n"
    channel.send(ACCESS, INFO, line.encode())
