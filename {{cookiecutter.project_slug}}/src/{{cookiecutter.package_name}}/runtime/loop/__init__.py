"""The event loop: waits for all clients of a member, and accepts."""
