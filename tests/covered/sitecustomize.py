"""Measure a service that a test starts: `make coverage` (ELSEWHERE names this directory; harness.py has it in a path).

Forked processes go on measuring. They end by os._exit or go on as another program, and save first (`patch` in
coveragerc); what is killed by SIGKILL saves nothing. The runtime knows nothing of this.
"""

import atexit
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALLED = [str(path) for path in REPOSITORY.glob(".venv/lib/python3*/site-packages")]

if sys.argv[0] in ("-m", "-c", ""):  # a service; this is imported before its module is found
    before = list(sys.path)
    sys.path += INSTALLED
    import coverage

    sys.path = before
    measured = coverage.Coverage(
        data_file=str(REPOSITORY / "build/coverage/all"),
        config_file=str(Path(__file__).with_name("coveragerc")),
    )
    measured.start()
    atexit.register(measured.save)
