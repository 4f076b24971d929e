"""Generate a service with the defaults, start it, ask it something, show the answer, stop it gracefully."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        say(f"Generating a service in {directory}:")
        generate = [sys.executable, "-m", "cookiecutter", "--no-input", "--output-dir", directory, str(TEMPLATE)]
        subprocess.run(generate, check=True)
        project = next(Path(directory).iterdir())
        package = next((project / "src").iterdir()).name

        say("Starting it in the foreground (-x), on any free port:")
        began = time.monotonic()
        service = subprocess.Popen(
            [sys.executable, "-m", package, "-x", "--interface", "127.0.0.1", "--port", "0", "--admin", "127.0.0.1:0"],
            env={**os.environ, "PYTHONPATH": str(project / "src")},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            address, admin = wait_until_ready(service)
            say(f"Asking it, {(time.monotonic() - began) * 1000:.0f} ms after the start:")
            with urllib.request.urlopen(f"{address}/", timeout=10) as answer:
                print(f"GET {address}/ -> {answer.status} {answer.reason}\n{answer.read().decode()}", end="")
            say(f"Its status page is {admin}/ and shows what {admin}/status says:")
            with urllib.request.urlopen(f"{admin}/status", timeout=10) as answer:
                status = json.load(answer)
            print(json.dumps({key: status[key] for key in ("ready", "workers", "totals")}, indent=2))
            say("Stopping it gracefully (TERM):")
            service.send_signal(signal.SIGTERM)
            print(service.communicate(timeout=40)[1], end="")
        finally:
            service.kill()
            service.wait()
    say(f"It ended with status {service.returncode}.")
    sys.exit(service.returncode)


def wait_until_ready(service: subprocess.Popen[str]) -> tuple[str, str]:
    """Show the log until the service is ready; returns the addresses that it names there: its own, and for admin."""
    address = admin = ""
    assert service.stderr
    for line in service.stderr:
        print(line, end="")
        if "listening on " in line:
            address = line.split("listening on ")[1].strip()
        if "admin endpoint on " in line:
            admin = line.split("admin endpoint on ")[1].strip()
        if "ready: " in line:
            return address, admin
    sys.exit(f"The service ended before it was ready, with status {service.wait()}.")


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
