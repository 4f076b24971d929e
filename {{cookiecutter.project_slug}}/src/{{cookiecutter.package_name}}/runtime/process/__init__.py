"""The process tree: a supervisor, its generations, and the server of each with its members."""
