"""What the operating system offers a daemon: privileges, pidfile, sockets, control groups, the service manager."""
