"""The states of an HTTP connection, and every step from one to another.

    HEAD ──▶ BODY or SPOOLING ──▶ HANDLING ──▶ HEAD ──▶ SENDING ──▶ HEAD (keep-alive) or LINGER ──▶ CLOSED

HEAD       waits for a request head: --header-timeout, and between requests --keep-alive
BODY       waits for a small body: --body-timeout; or has a whole larger one, and waits for its worker or a sibling
SPOOLING   receives a larger body, or one announced by Expect: --body-timeout per 64 KiB
HANDLING   a handler runs, and reads the body itself if its route asks for that; or a generator makes a piece of the
           response
SENDING    the client still reads the response: --body-timeout per 64 KiB
LINGER     the response is sent, our side is shut down: what the client still sends is discarded until it closes too, so
           that no reset destroys the response on its way (RFC 9112 9.6)
ABANDONED  --request-timeout: the client has got 503 (or the end of its response), and the handler still runs
CLOSED     the descriptor is closed

When a handler returns, the connection is in HEAD again; what the kernel does not take at once of the response leads to
SENDING. Only the loop that owns a connection changes its state, and only HANDLING costs a worker.
"""

from enum import IntEnum


class State(IntEnum):
    """See the head of this file. A connection in HEAD or BODY is parked."""

    HEAD = 0
    BODY = 1
    SPOOLING = 2
    HANDLING = 3
    SENDING = 4
    LINGER = 5
    ABANDONED = 6
    CLOSED = 7


# As plain numbers: each comparison of a request costs a third of one with an enum's member.
HEAD, BODY, SPOOLING, HANDLING, SENDING, LINGER, ABANDONED, CLOSED = (state.value for state in State)

TRANSITIONS = {
    State.HEAD: {State.BODY, State.SPOOLING, State.HANDLING, State.SENDING, State.LINGER, State.CLOSED},
    State.BODY: {State.HEAD, State.SPOOLING, State.SENDING, State.LINGER, State.CLOSED},
    State.SPOOLING: {State.HEAD, State.BODY, State.SENDING, State.LINGER, State.CLOSED},
    State.HANDLING: {State.HEAD, State.SENDING, State.ABANDONED, State.CLOSED},
    State.SENDING: {State.HEAD, State.HANDLING, State.LINGER, State.CLOSED},
    State.LINGER: {State.CLOSED},
    State.ABANDONED: {State.CLOSED},
    State.CLOSED: set[State](),
}
