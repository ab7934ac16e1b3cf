"""Peers that need a process of their own, in turn with the others.

A worker prints one line of JSON when it is ready, and one for each line it is sent, when
the work is done once more.
"""

import json
import subprocess
import sys


class Worker:
    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer()

    def __call__(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self.process.wait()}.")
        return json.loads(line)

    def __del__(self):
        self.process.kill()
        self.process.communicate()


def serve(ready, run):
    """The worker's side."""
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), flush=True)
