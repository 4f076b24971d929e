"""The user's code: `handlers.py` imported afresh, what its init() gets, and how a failure of it is shown."""

import functools
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from types import MethodType, ModuleType
from typing import Any

from ..config.errors import StartError
from ..config.options import start_directory
from ..config.service import Service
from ..config.settings import Config
from ..ipc import forks
from ..ipc.metrics import Counter, Gauge, Registry
from ..ipc.scoreboard import Scoreboard
from ..log.records import log
from ..system.listeners import Listener
from ..system.privileges import Identity

# All optional: what each is called with.
FUNCTIONS = {"init": "server", "exit": "server", "worker_init": "worker", "worker_exit": "worker", "health": ""}
ASYNC, GENERATOR, ANY = 0x80 | 0x200, 0x20, 0x04  # flags of code objects (inspect.CO_...)
NAME_LENGTH = 64  # bytes of a name in syslog
# Bytes of address space; what is used of it becomes memory. Twice the stack of a main thread, for which the limits of
# the interpreter are made. Of 99 kinds of recursion, 20 end the process with 1 MiB and one with 4 MiB, instead of a
# RecursionError (3.13; on 3.11 one with 2 MiB); none with 8 MiB.
STACK = 16 * 2**20


class Periodic:
    """A function that is called every so many seconds."""

    def __init__(self, function: Callable[[], Any], seconds: float) -> None:
        self.function = function
        self.interval = seconds
        self.deadline = time.monotonic() + seconds

    def run(self, now: float) -> None:
        """Call it if its interval has passed; calls that were missed are not made up for."""
        if now >= self.deadline:
            self.deadline = max(self.deadline + self.interval, now)
            attempt(self.function, f"periodic function {getattr(self.function, '__name__', self.function)}")


class Server:
    """What `init(server)` and `exit(server)` get. Attributes are for reading; the set_… functions change things."""

    def __init__(
        self, service: Service, config: Config, listeners: list[Listener], identity: Identity, board: Scoreboard,
        report: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._report = report  # to the supervisor
        self.config_file = config.config  # path of --config, "" without
        self.config = config.file  # the file, parsed: your tables are in here
        self.root_dir = working_directory()
        self.interface = config.interface
        addresses = [one.socket.getsockname() for one in listeners]
        self.port = next((int(one[1]) for one in addresses if isinstance(one, tuple)), 0)
        self.user = identity.name or str(identity.uid)
        self.group = str(identity.gid)
        self.name = config.name
        self.version = service.version
        self.periodic: list[Periodic] = []
        self.stack_size = STACK
        self.in_init = True
        self.metrics = Registry(board)

    def counter(self, name: str, text: str) -> Counter:
        """A counter that all workers share, shown by /metrics and /status: keep it in a global and call its `add` in
        handlers. Only in init(). Raises RuntimeError elsewhere, ValueError for a bad name or one that exists."""
        return Counter(self.metrics.board, self.declare("counter", name, text))

    def gauge(self, name: str, text: str) -> Gauge:
        """A number that goes up and down (`add`, `set`), else like `counter`."""
        return Gauge(self.metrics.board, self.declare("gauge", name, text))

    def declare(self, kind: str, name: str, text: str) -> int:
        if not self.in_init:
            raise RuntimeError(f"{kind} {name!r}: metrics are declared in init(), before the workers start")
        return self.metrics.declare(kind, name, text)

    def set_periodic(self, function: Callable[[], Any], seconds: float) -> None:
        """Call `function` every so many seconds, in the server process. Raises ValueError below 0.1."""
        if not seconds >= 0.1:
            raise ValueError(f"set_periodic needs at least 0.1 seconds, not {seconds!r}")
        self.periodic.append(Periodic(function, seconds))

    def set_stack_size(self, size: int) -> None:
        """Bytes of stack for each thread of the threaded pool; ignored by the prefork pool. Only in
        init(). 16 MiB by default, of address space: memory is what a thread has used of it. Below 8 MiB deep recursion
        can crash the process, hostile nested input among its causes. Raises RuntimeError elsewhere, ValueError for
        what the platform refuses."""
        if not self.in_init:
            raise RuntimeError("set_stack_size() works in init() only: threads that run have their stack")
        try:
            threading.stack_size(size)
            probe = threading.Thread(target=int)
            probe.start()  # only a start shows whether there is enough memory
            probe.join()
        except (ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"set_stack_size({size}): {error}; at least 32768 and a multiple of 4096") from None
        finally:
            threading.stack_size(0)
        self.stack_size = size

    def set_name(self, name: str) -> None:
        """Set the syslog ident, for as long as this generation serves (libserver's ident); the pidfile keeps the name
        of --name. Raises ValueError for a name that is empty, has control characters or more than 64 bytes."""
        if not name or not name.isprintable() or len(name.encode()) > NAME_LENGTH:
            raise ValueError(f"set_name needs 1 to {NAME_LENGTH} bytes without control characters, not {name[:99]!r}")
        self.name = name
        self._report(f"name {name}")


def working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        log.warning("the working directory is gone: relative names of files lead nowhere")
        return start_directory()


def load_handlers(service: Service) -> ModuleType:
    """Import the user's module afresh. Raises StartError (70) after logging the traceback."""
    sys.dont_write_bytecode = True  # a stale file would hide an edit within the same second (pyc stores seconds)
    importlib.invalidate_caches()
    name = service.package + ".handlers"
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        log.error("importing %s failed", name, exc_info=trimmed(error))
        gone = [one for one in sys.modules[service.package].__path__ if not os.path.exists(os.path.dirname(one))]
        reason = f"{gone[0]} is gone" if gone else f"{described(error)}; see the traceback"
        raise StartError(f"{name} cannot be imported: {reason}") from None
    for function, parameter in FUNCTIONS.items():
        if hasattr(module, function):
            check_signature(getattr(module, function), f"{function} in handlers.py", *parameter.split())
    service.protocol.check(module)
    return module


def check_signature(function: Any, what: str, *names: str) -> None:
    """Can it be called with these? Raises StartError (70) naming `what`."""
    if not callable(function):
        raise StartError(f"{what} is no function: rename it, or write `def ...({', '.join(names)})`")
    plain = function
    while isinstance(plain, functools.partial | MethodType):
        plain = plain.func if isinstance(plain, functools.partial) else plain.__func__
    code = getattr(plain, "__code__", None)
    if code is not None and code.co_flags & ASYNC:
        raise StartError(f"{what} is `async`, which this pool does not run: write `def`")
    if code is not None and code.co_flags & GENERATOR:
        raise StartError(
            f"{what} is a generator (it has a `yield`), which a call does not run: return what it is to send"
        )
    if plain is function and code is not None:
        least = code.co_argcount - len(function.__defaults__ or ())
        named = code.co_kwonlyargcount - len(function.__kwdefaults__ or ())
        fits = least <= len(names) and (len(names) <= code.co_argcount or code.co_flags & ANY) and not named
    else:
        import inspect  # only for what is no plain function: it costs a start some milliseconds

        try:
            fits = bool(inspect.signature(function).bind(*names))
        except TypeError:
            fits = False
        except ValueError:  # of what is written in C nothing is known
            fits = True
    if not fits:
        called = f"{what.split()[0].split('.')[-1].rstrip(',')}({', '.join(names)})"
        raise StartError(f"{what} is called as {called}: its parameters do not fit")


def call(handlers: ModuleType, name: str, *arguments: Any) -> Any:
    """Call one of the user's optional functions. Raises StartError (70) after logging its traceback."""
    function = getattr(handlers, name, None)
    if function is None:
        return None
    try:
        result = function(*arguments)
        forks.returned()
        return result
    except BaseException as error:
        forks.returned(error)
        log.error("%s() failed", name, exc_info=trimmed(error))
        raise StartError(f"{name}() in handlers.py failed: {described(error)}; see the traceback") from None


def attempt(function: Callable[..., Any] | None, name: str, *arguments: Any) -> Any:
    """What one of the user's functions returns; None without one. Whatever it raises, SystemExit too, is a line in the
    log, and ends nothing: False then."""
    try:
        result = None if function is None else function(*arguments)
        forks.returned()
        return result
    except BaseException as error:
        if isinstance(error, SystemExit):  # in a child that it has forked, this is no failure
            forks.returned(error)
        log.exception("%s failed", name)
        forks.returned(error)
        return False


def described(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).replace("\n", " ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def trimmed(error: BaseException) -> BaseException:
    """The same exception, its traceback without the frames of the runtime and of the import machinery."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (file.startswith("<frozen importlib") or os.sep + "importlib" + os.sep in file or file == __file__):
            break
        trace = trace.tb_next
    return error.with_traceback(trace)
