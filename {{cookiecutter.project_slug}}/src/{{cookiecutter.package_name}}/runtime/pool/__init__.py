"""What a member of the pool is: a worker process, or a host process with many threads."""
