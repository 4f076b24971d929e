"""A machine that looks like FreeBSD to an rc.d script, and what an operator does to it."""

from __future__ import annotations

from machines import SERVICE, Done, Machine

SCRIPT = "/usr/local/etc/rc.d/hello_server"
PIDFILE = f"/var/run/{SERVICE}.pid"
# service(8) starts with an environment of its own.
ENVIRONMENT = ("env", "-i", "HOME=/", "PATH=/sbin:/bin:/usr/sbin:/usr/bin")


class FreeBSD(Machine):
    def service(self, verb: str, shell: str = "dash") -> Done:
        """`service hello_server VERB`."""
        return self.try_(*ENVIRONMENT, shell, SCRIPT, verb, workdir="/")

    def works(self, verb: str) -> Done:
        done = self.service(verb)
        assert done.status == 0, done
        assert "WARNING" not in done.stderr, done
        return done

    def fails(self, verb: str) -> Done:
        done = self.service(verb)
        assert done.status == 1, done
        return done

    def rc_conf(self, **variables: str) -> None:
        given = {"enable": "YES", **variables}
        lines = [f'hello_server_{name}="{value}"\n' for name, value in given.items()]
        self.write("/etc/rc.conf", 'rc_startmsgs="NO"\n' + "".join(lines))  # what /etc/defaults/rc.conf says too

    @property
    def pid(self) -> int:
        return int(self.ask("cat", PIDFILE))
