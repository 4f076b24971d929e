"""What both pools share for the protocols `stream` and `line`: one connection, from accept to close."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from ..config.settings import Config
from ..ipc import scoreboard
from ..log.access_format import address_of, date
from ..log.records import ACCESS, COMPACT, INFO, channel, log, log_stacks, stamp
from ..pool.worker import Worker, WorkerFailed
from ..process.member import Context
from ..system.listeners import Listener, peer_of
from .stream import Stream

PAUSE = 0.1  # seconds for which accepting pauses when descriptors or memory have run out
LINGERING = 2.0  # seconds in which a client that still sends after our end may notice it
DISCARD = 2**20  # bytes that it may send in them
TIMED_OUT = 75  # exit status of a process whose handler exceeded --request-timeout (EX_TEMPFAIL)
Taken = tuple[socket.socket, Any]


class Queue:
    """The connections that wait in the kernel behind this member's listeners."""

    def __init__(self, context: Context, slot: int) -> None:
        self.listeners = context.listeners
        self.board = context.board
        self.words, self.base = context.board.words, context.board.base(slot)
        self.backlog = context.config.backlog
        self.short = 0.0  # until when there is no descriptor for another one; 0 = there is
        self.listening = True

    def take(self, listener: Listener) -> Taken | None:
        """One connection, or None when there is none or no descriptor for it."""
        try:
            sock, peer = listener.socket.accept()
        except BlockingIOError:
            self.short = 0.0  # a sibling was faster; had no descriptor been free, that would be the error
            return None
        except ConnectionAbortedError:
            return self.take(listener)  # its client has left
        except OSError as error:
            self.scarce(error)
            return None
        self.short = 0.0
        self.words[self.base + scoreboard.ACCEPTED] += 1
        return sock, peer_of(peer)

    def scarce(self, error: OSError) -> None:
        """Descriptors or memory have run out; or the network has an error: Linux tells of it here (accept(2))."""
        if not self.short:
            log.warning("cannot accept: %s; accepting pauses", error.strerror)
        self.short = time.monotonic() + PAUSE

    def close(self) -> Iterator[Taken]:
        """In a drain: all that waits, then close the listeners, so that newcomers are refused. One that retires alone,
        or is replaced by a reload, leaves the queue to others. `listening` is still set afterwards when descriptors
        have run out: call it again."""
        if self.board.empties_queue(self.base):
            for listener in self.listeners:
                for _ in range(self.backlog):  # more cannot have waited when the drain began
                    taken = self.take(listener)
                    if taken is None:
                        break
                    yield taken
                if self.short:
                    return
        self.listening = False
        for listener in self.listeners:
            listener.socket.close()


def opened(taken: Taken, config: Config, worker: Worker) -> Stream:
    """The stream of a connection."""
    sock, peer = taken
    stream = Stream(sock, peer, worker)
    with suppress(OSError):  # macOS, of one that its client has reset already: the first look at it will tell
        stream.settimeout(config.idle_timeout or None)
    if config.access_log != "off":
        stream.note = partial(note, config.access_log)
    return stream


def serve(stream: Stream, service: Callable[[Stream], None], worker: Worker) -> bool:
    """Serve one connection to its end. False when the handler failed: its traceback is in the log, and the worker
    lives on."""
    good = True
    try:
        service(stream)
        stream.flush()
        if not stream.closed:
            stream.part(LINGERING, DISCARD)
    except (WorkerFailed, SystemExit) as failure:
        worker.failed(failure)
        good = False
    except BaseException as error:
        if error is not stream.error:  # not the connection, so the handler
            log.exception("serving %s failed", shown(stream))
            good = False
        elif isinstance(error, TimeoutError):
            log.info("%s was silent for too long: closed", shown(stream))
        else:
            log.info("%s left: %s", shown(stream), stream.error.strerror or error)
    finally:
        if not good:
            send_rest(stream)
        if stream.note is not None:
            stream.note(stream, good)
        stream.closed = True
        stream.socket.close()
    return good


def send_rest(stream: Stream) -> None:
    """What the handler wrote before it failed still goes to the client, if that is there."""
    try:
        stream.flush()
        stream.part(LINGERING, DISCARD)
    except (OSError, ValueError):
        return


def shown(stream: Stream) -> str:
    return f"{stream.peer[0]}:{stream.peer[1]}" if stream.peer else "a local client"


def hangs(stream: Stream, limit: float, now: float) -> bool:
    """Has its handler run for more than --request-timeout without reading or writing?"""
    since = stream.since
    return bool(since) and now - since > limit


def expire(streams: list[Stream], limit: float, ending: str) -> None:
    """Say where handlers hang, and close their connections."""
    log.error("%s: a handler runs for more than %g s (--request-timeout): %s",
              ", ".join(shown(stream) for stream in streams), limit, ending)  # fmt: skip
    log_stacks()
    for stream in streams:
        try:
            stream.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def note(form: str, stream: Stream, good: bool) -> None:
    """For the access log: a connection has ended. Any thread may say so."""
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
