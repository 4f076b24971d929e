"""HTTP/1.1 messages: bytes in, heads and bodies out. No sockets, no clocks."""
