"""bjoern with two processes on one socket."""

import os
import sys

import bjoern
from wsgi import application

bjoern.listen(application, "127.0.0.1", int(sys.argv[1]))
os.fork()
bjoern.run()
