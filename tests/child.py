"""Runs a piece of Python in a process of its own, with the core and a convolution at hand."""

import os
import subprocess
import sys
import textwrap

HEAD = '''
import os, signal, sys, threading, time
import numpy as np
import pyinception._C as core

# A parent in the background of a shell hands down an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

def peak():
    """KiB this process has held at most; ru_maxrss would begin with what its parent had held."""
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

walls = []

def interrupted(call):
    """Ctrl-C comes 0.3 s into call(), over and over; seconds until it ends.

    Of this thread's processor time: a busy machine holds it up for any time. `walls` gets those
    of the clock on the wall, by which the core asks for signals.
    """
    caller = time.pthread_getcpuclockid(threading.get_ident())
    inside, sent = threading.Event(), []
    def kick():
        inside.wait()
        time.sleep(0.3)
        sent.append((time.clock_gettime(caller), time.monotonic()))
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=kick)
    thread.start()
    try:
        inside.set()
        while True:
            call()
    except KeyboardInterrupt:
        wait = time.clock_gettime(caller) - sent[0][0]
        walls.append(time.monotonic() - sent[0][1])
    thread.join()
    return wait

draw = np.random.default_rng(0)
x = draw.standard_normal((4, 28, 28, 64)).astype(np.float32)
w = draw.standard_normal((96, 3, 3, 64)).astype(np.float32)

def conv(threads=2, x=x, algorithm="direct"):
    y = np.full((*x.shape[:3], 96), np.nan, np.float32)
    core.conv_fprop(x, w, None, y, (3, 3), (1, 1), (1, 1), True, algorithm, "", threads)
    return y
'''


def child(body: str, **environment: str) -> subprocess.CompletedProcess:
    """Run HEAD + body in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(body)],
        capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def passes(body: str, **environment: str) -> str:
    done = child(body, **environment)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout
