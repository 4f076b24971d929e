"""Does anything grow? Connections by the million: connect, say something, read the answer, close; and TERM under load.

    soak.py [--connections N] [--stops N] [--python PATH]

For each pool: after every tenth of the connections memory, descriptors, threads and processes are measured; from the
third measurement on nothing may grow by more than a tenth. Then the service is stopped with TERM at random moments of
the same load, again and again: exit status 0, no process and no socket file left.
"""

import argparse
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from load.service import DEADLINE, Service, verdict

ECHO = """
def service_connection(stream):
    while line := stream.readline():
        stream.write(line)
"""
RESET = struct.pack("ii", 1, 0)  # close with a reset: no TIME_WAIT, which would use up all ports


def churn(port: int, stop: threading.Event, count: int, lost: list[str], wide: bool = False) -> None:
    """So many connections, one after the other."""
    for number in range(count):
        if stop.is_set():
            return
        try:
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
                connection.sendall(b"%d\n" % number)
                if connection.recv(100) != b"%d\n" % number:
                    raise ConnectionError("a wrong answer, or none")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError as error:
            lost.append(str(error))
            if wide:
                return


def together(port: int, count: int, lost: list[str]) -> None:
    """The same by four clients at a time."""
    clients = [threading.Thread(target=churn, args=(port, threading.Event(), count // 4, lost)) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def soak(pool: str, connections: int, python: str) -> bool:
    print(f"{pool}: {connections} connections, one after the other in four clients:")
    lost: list[str] = []
    measured = []
    with Service(pool, "stream", ECHO, "-n", "5", "-m", "10", python=python) as service:
        for _ in range(10):
            began = time.monotonic()
            together(service.port, connections // 10, lost)
            measured.append(service.measure())
            took = time.monotonic() - began
            service.forget_log()  # each reset is a line of information
            print(json.dumps(measured[-1] | {"connections_per_s": round(connections / 10 / took)}))
    good = verdict(f"no connection lost ({len(lost)}: {lost[:3]})", not lost)
    for name in ("pss", "descriptors", "threads", "processes"):
        before, after = measured[2][name], measured[-1][name]
        good &= verdict(f"{name}: {before} then {after}", after <= before * 1.1 + 2)
    return good


def stops(pool: str, times: int, python: str) -> bool:
    """TERM at random moments of a load."""
    random.seed(times)
    for number in range(times):
        with Service(pool, "stream", ECHO, "-n", "3", "-m", "8", python=python) as service:
            stop, lost = threading.Event(), list[str]()
            clients = [threading.Thread(target=churn, args=(service.port, stop, 10**9, lost, True)) for _ in range(4)]
            for client in clients:
                client.start()
            time.sleep(random.random() * 0.3)
            os.kill(service.process.pid, signal.SIGTERM)
            status = service.process.wait(DEADLINE)
            stop.set()
            for client in clients:
                client.join(DEADLINE)
            if status:
                sys.exit(f"stop {number}: exit status {status}\n{service.log()[-3000:]}")
    return verdict(f"{pool}: {times} times TERM under load, each time a clean end", True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--python", default="/usr/bin/python3", help="that runs the service")
    given = parser.parse_args()
    good = True
    for pool in ("prefork", "threaded"):
        if given.connections:
            good &= soak(pool, given.connections, given.python)
        if given.stops:
            good &= stops(pool, given.stops, given.python)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
