"""Steady load on a Swarm service, from inside its network: a line of JSON for every request.

    swarm_client.py NAME PORT FILE

A client looks the name up for each request, takes the addresses in a random order, and asks the first that lets it
connect, once. Nothing is ever asked again.
"""

import json
import os
import random
import socket
import sys
import threading
import time

TARGETS = ["/"] * 6 + ["/slow"] * 2  # a client for each
PAUSE = 0.05  # seconds between two requests of a client, on average
CONNECT, ANSWER = 2.0, 15.0  # seconds of patience
name, port, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def ask(target: str, event: dict[str, object]) -> None:
    tried: list[str] = []
    event["tried"] = tried
    found = {str(info[4][0]) for info in socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)}
    connection = None
    for address in random.sample(sorted(found), len(found)):
        tried.append(address)
        try:
            connection = socket.create_connection((address, port), CONNECT)
            break
        except OSError as error:
            event["elsewhere"] = repr(error)
    if connection is None:
        raise ConnectionError("no address takes a connection")
    with connection:
        connection.settimeout(ANSWER)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"answered {answer[:60]!r}")
    event["answer"] = json.loads(body)


def client(target: str, log: int) -> None:
    while True:
        event: dict[str, object] = {"began": time.monotonic()}
        try:
            ask(target, event)
        except (OSError, ValueError) as error:
            event["error"] = repr(error)
        event["ended"] = time.monotonic()
        # One write, to the end of the file: lines of several threads do not mix.
        os.write(log, json.dumps(event).encode() + b"\n")
        time.sleep(random.random() * 2 * PAUSE)


with open(file, "ab", buffering=0) as opened:
    threads = [threading.Thread(target=client, args=(target, opened.fileno())) for target in TARGETS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
