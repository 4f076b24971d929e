"""How the processes of one service talk: shared memory, descriptors, signals."""
