"""A listener's life: what the table allows happens once, and what it does not allow changes nothing."""

import itertools
import socket
from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.runtime.config.errors import UNAVAILABLE, StartError
from {{ cookiecutter.package_name }}.runtime.system.binding import bind
from {{ cookiecutter.package_name }}.runtime.system.listeners import TRANSITIONS, Listener, State


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    (bound,) = bind(f"unix:{tmp_path / 'socket'}")
    return bound


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_the_table_decides(listener: Listener, before: State, after: State) -> None:
    listener.state = before
    assert listener.change(after) is (after in TRANSITIONS[before])
    assert listener.state is (after if after in TRANSITIONS[before] else before)
    listener.socket.close()


def test_a_life(listener: Listener, tmp_path: Path) -> None:
    """Of a UNIX socket: its file is there while it listens, and a client in the accept queue is still served."""
    path = tmp_path / "socket"
    assert (listener.state, path.exists()) == (State.BOUND, False)
    listener.listen(5)
    assert (listener.state, path.exists()) == (State.LISTENING, True)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert listener.refuse()
        assert (listener.state, path.exists()) == (State.REFUSING, False)
        listener.socket.accept()[0].close()
    assert not listener.refuse()
    listener.remove()
    listener.remove()
    assert (listener.state, listener.socket.fileno()) == (State.CLOSED, -1)


def test_what_a_stop_has_removed_does_not_listen(listener: Listener) -> None:
    assert listener.refuse()
    with pytest.raises(StartError) as error:
        listener.listen(5)
    assert error.value.status == UNAVAILABLE
    listener.remove()


def test_a_socket_of_the_starter_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        listener = Listener("fd:3", inherited, inherited=True)
        assert listener.change(State.LISTENING)
        assert not listener.refuse()
        assert listener.state is State.LISTENING
