"""Directories that are entered by descriptor, and never through a link that another user may have made: what root
makes, changes and removes in a directory lies in that directory, whatever its owner does meanwhile.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SEARCH = getattr(os, "O_PATH", getattr(os, "O_SEARCH", os.O_RDONLY)) | os.O_DIRECTORY | os.O_CLOEXEC
MOST_LINKS = 40  # on the way to a directory, as path_resolution(7) has it
FOREIGN_LINK = "on the way is a link that another user may have made: give the directory that it names"


def open_directory(path: str, make: bool = False) -> int:
    """A descriptor of a directory; `make` makes what is missing on the way. Root follows no link that another user may
    have made, as that user would choose where root works. Raises OSError."""
    if os.geteuid():
        if make:
            os.makedirs(path, exist_ok=True)
        return os.open(path, SEARCH)
    names, links = path.split("/")[::-1], 0
    here = os.open("/" if path.startswith("/") else ".", SEARCH)
    try:
        while names:
            name = names.pop() or "."
            try:
                below = os.open(name, SEARCH | os.O_NOFOLLOW, dir_fd=here)
            except FileNotFoundError:
                if not make:
                    raise
                os.mkdir(name, dir_fd=here)
                names.append(name)
                continue
            except OSError as error:  # ELOOP or ENOTDIR for a link, by system
                target, links = link_target(here, name, error), links + 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                names += target.split("/")[::-1]
                if not target.startswith("/"):
                    continue
                below = os.open("/", SEARCH)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def link_target(directory: int, name: str, error: OSError) -> str:
    """What a link names. Raises `error` when it is none, OSError when another user may have made it."""
    facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(facts.st_mode):
        raise error
    around = os.fstat(directory)
    others_write = around.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not around.st_mode & stat.S_ISVTX
    if facts.st_uid or around.st_uid or others_write:
        raise OSError(errno.ELOOP, FOREIGN_LINK)
    return os.readlink(name, dir_fd=directory)


@contextmanager
def entered(path: str) -> Iterator[None]:
    """Work in this directory, by names without a slash. Only where this process has one thread. Raises OSError."""
    with closing(open_directory(path)) as there, current() as back:
        os.fchdir(there)
        try:
            yield
        finally:
            os.fchdir(back)


@contextmanager
def current() -> Iterator[int]:
    """A descriptor of the working directory; of / where this user may not enter that again."""
    try:
        descriptor = os.open(".", SEARCH)
    except OSError:
        descriptor = os.open("/", SEARCH)
    with closing(descriptor):
        yield descriptor


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_at(path: str, descriptor: int) -> bool:
    """Whether an open file has this name."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


@contextmanager
def workshop(name: str) -> Iterator[None]:
    """Work in a new directory inside the working directory, in which no other user can exchange a file. What an earlier
    process of the same name has left is removed. Raises OSError."""
    with current() as back:
        remove_workshop(name)
        os.mkdir(name, 0o700)
        with closing(os.open(name, SEARCH | os.O_NOFOLLOW)) as there:
            if os.fstat(there).st_uid != os.geteuid():  # exchanged since
                raise OSError(errno.EPERM, "another user exchanges files there: choose another directory")
            os.fchdir(there)
        try:
            yield
        except BaseException:
            os.fchdir(back)
            remove_workshop(name)
            raise
        os.fchdir(back)


def remove_workshop(name: str) -> None:
    """Remove a workshop and what it holds, or a file of its name. Raises OSError."""
    try:
        there = os.open(name, SEARCH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError:  # no directory
        os.unlink(name)
        return
    with closing(there):
        file = name.rpartition(".")[0]
        with suppress(FileNotFoundError):
            os.unlink(file, dir_fd=there)
    os.rmdir(name)
