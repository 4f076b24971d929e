"""What handlers see of HTTP: requests, responses, the router. No sockets, no loop."""
