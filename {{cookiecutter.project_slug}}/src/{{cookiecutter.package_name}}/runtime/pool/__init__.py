"""The members of a pool: worker processes (prefork), or host processes with many worker threads (threaded)."""
