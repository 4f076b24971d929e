"""Measure the image beside images of the same service on gunicorn and on uvicorn, and write the table into the
generated project's README.

    image_facts.py [--rounds N] [--print]

Needs a Docker engine on this machine, the image python:3.13-slim (`ci/base_image.py 3.13`), and root, who may read the
memory of processes. The peers are pinned in ci/bench/peers.txt. Rounds are interleaved; the table has the fastest start
of each, because all that disturbs makes them slower.
"""

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "{{cookiecutter.project_slug}}/README.md"
BEGIN, END = "<!-- begin image facts: made by ci/image_facts.py of the template -->", "<!-- end image facts -->"
PINS = dict(line.split("==") for line in (REPOSITORY / "ci/bench/peers.txt").read_text().split() if "==" in line)
PYTHON = "3.13"
BASE = f"python:{PYTHON}-slim"
PORT = 1966
LABEL = "servertemplate.facts"
DEADLINE = 60.0
SETTLE = 3.0  # seconds: some start their workers one after the other, and answer before the last one is there
ASK = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}/healthz')"
# The same three routes as the generated handlers.py, without a framework.
WSGI = """
def application(environ, start_response):
    body = environ["wsgi.input"].read() if environ["PATH_INFO"] == "/echo" else b"Hello from hello-server\\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
ASGI = """
async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    body = (await receive())["body"] if scope["path"] == "/echo" else b"Hello from hello-server\\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
PEER = f"""
FROM {BASE}
COPY ["app", "/app"]
RUN ["python", "-m", "compileall", "-q", "/app"]
ENV PYTHONPATH=/app
WORKDIR /app
USER 65532:65532
"""


class Contender:
    """An image, and how it is started with so many workers."""

    def __init__(self, name: str, app: str, packages: list[str], command: list[str]) -> None:
        self.name = name
        self.app = app  # "" for our own
        self.packages = packages
        self.command = command  # {} stands for the number of workers
        self.tag = f"servertemplate-facts:{uuid4().hex[:12]}"
        self.size = 0
        self.answers: list[float] = []
        self.healthy: list[float] = []
        self.memory: dict[int, float] = {}

    def build(self, engine: docker.DockerClient, directory: Path) -> None:
        if not self.app:
            sys.path.insert(0, str(REPOSITORY / "tests/support"))
            from baking import bake, copy_template

            context = bake(copy_template(directory / "template"), directory / "baked", python_version=PYTHON)
        else:
            context = directory / self.name
            install = ["-m", "pip", "install", "--quiet", "--target", str(context / "app"), "--only-binary", ":all:"]
            install += ["--python-version", PYTHON, "--platform", "manylinux2014_x86_64"]
            install += ["--platform", "manylinux_2_28_x86_64"]
            subprocess.run([sys.executable, *install, *(f"{one}=={PINS[one]}" for one in self.packages)], check=True)
            (context / "app/app.py").write_text(self.app)
            (context / "Dockerfile").write_text(PEER)
        options: dict[str, Any] = {"labels": {LABEL: ""}, "buildargs": {"PYTHON_IMAGE": BASE}}
        engine.images.build(path=str(context), tag=self.tag, rm=True, forcerm=True, **options)
        self.size = engine.images.get(self.tag).attrs["Size"] - engine.images.get(BASE).attrs["Size"]

    def run(self, engine: docker.DockerClient, workers: int, check: dict[str, Any]) -> tuple[Any, str, float]:
        """Start a container and wait until it answers: the container, its address, and the seconds."""
        command = [part.format(workers) for part in self.command]
        options: dict[str, Any] = {"labels": {LABEL: ""}, "healthcheck": check, "detach": True}
        began = time.monotonic()
        container: Any = engine.containers.run(self.tag, command, **options)
        container.reload()
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        url = f"http://{network['IPAddress']}:{PORT}/"
        until(lambda: answers(url))
        return container, url, time.monotonic() - began

    def measure_start(self, engine: docker.DockerClient) -> None:
        """Until it answers, and until the engine calls it healthy, which it looks for every 0.1 s."""
        check: dict[str, Any] = {"interval": 100_000_000} | ({"test": ["CMD", "python", "-c", ASK]} if self.app else {})
        began = time.monotonic()
        container, _, answered = self.run(engine, 5, check)
        until(lambda: health(container) == "healthy")
        self.healthy.append(time.monotonic() - began)
        self.answers.append(answered)
        container.remove(force=True, v=True)

    def measure_memory(self, engine: docker.DockerClient, workers: int) -> None:
        """Of all its processes, after some requests."""
        container, url, _ = self.run(engine, workers, {"test": ["NONE"]})
        time.sleep(SETTLE)
        for _ in range(200):
            assert answers(url)
        self.memory[workers] = sum(pss(int(row[0])) for row in container.top(ps_args="-o pid")["Processes"])
        container.remove(force=True, v=True)


def until(happened: Any) -> None:
    deadline = time.monotonic() + DEADLINE
    while not happened():
        if time.monotonic() > deadline:
            sys.exit(f"a container did not get ready within {DEADLINE:g} s")
        time.sleep(0.005)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def health(container: Any) -> str:
    container.reload()
    return str(container.attrs["State"]["Health"]["Status"])


def pss(pid: int) -> float:
    """MiB of a process, pages that it shares divided by their users."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"(?m)^Pss:\s+(\d+) kB", text)[0]) / 1024


def table(contenders: list[Contender]) -> str:
    """The facts as Markdown."""
    rows = [
        ("", *(one.name for one in contenders)),
        ("---", *("---:" for _ in contenders)),
        ("size above the base image", *(f"{one.size / 1e6:.1f} MB" for one in contenders)),
        ("`docker run` to the first answer", *(f"{min(one.answers):.2f} s" for one in contenders)),
        ("`docker run` to healthy", *(f"{min(one.healthy):.2f} s" for one in contenders)),
    ]
    for workers, text in ((1, "memory (PSS) with 1 worker"), (5, "memory (PSS) with 5 workers")):
        rows.append((text, *(f"{one.memory[workers]:.0f} MiB" for one in contenders)))
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--print", action="store_true", help="do not write the table, only print it")
    given = parser.parse_args()
    gunicorn = ["python", "-m", "gunicorn", "--workers", "{}", "--worker-tmp-dir", "/dev/shm"]
    gunicorn += ["--bind", f"0.0.0.0:{PORT}", "app:application"]
    uvicorn = [
        "python",
        "-m",
        "uvicorn",
        "--workers",
        "{}",
        "--host",
        "0.0.0.0",
        "--port",
        str(PORT),
        "app:application",
    ]
    contenders = [
        Contender("this service", "", [], ["-n", "{}", "-m", "{}"]),
        Contender(f"gunicorn {PINS['gunicorn']}", WSGI, ["gunicorn"], gunicorn),
        Contender(f"uvicorn {PINS['uvicorn']}", ASGI, ["uvicorn", "httptools", "uvloop"], uvicorn),
    ]
    with contextlib.closing(docker.from_env()) as engine, tempfile.TemporaryDirectory() as directory:
        try:
            for one in contenders:
                one.build(engine, Path(directory))
            for _ in range(given.rounds):
                for one in contenders:
                    one.measure_start(engine)
            for one in contenders:
                one.measure_memory(engine, 1)
                one.measure_memory(engine, 5)
        finally:
            for container in engine.containers.list(all=True, filters={"label": LABEL}):
                container.remove(force=True, v=True)
            for image in engine.images.list(filters={"label": LABEL}):
                engine.images.remove(str(image.id), force=True)
    print(table(contenders))
    if not given.print:
        text = README.read_text()
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        README.write_text(f"{text[:begin]}\n{table(contenders)}\n{text[end:]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
