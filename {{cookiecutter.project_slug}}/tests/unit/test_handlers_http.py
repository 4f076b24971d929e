"""The handlers are asked by a client that needs no network; `init` and `worker_init` have run."""

from collections.abc import Iterator

import pytest

from {{ cookiecutter.package_name }}.handlers import routes
from {{ cookiecutter.package_name }}.runtime.testing import Client


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with routes.client() as client:
        yield client


def test_hello(client: Client) -> None:
    answer = client.get("/")
    assert answer.status == 200
    assert answer.text == "Hello from {{ cookiecutter.project_slug }}\n"


def test_echo(client: Client) -> None:
    answer = client.post("/echo", json={"a": 1})
    assert answer.status == 200
    assert answer.body == b'{"a": 1}'
    assert answer.headers["content-type"] == "application/json"


def test_healthz(client: Client) -> None:
    assert client.get("/healthz").status == 200


def test_what_is_not_there(client: Client) -> None:
    assert client.get("/nowhere").status == 404
    assert client.delete("/").headers["allow"] == "GET, HEAD, OPTIONS"
