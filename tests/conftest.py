"""What holds for every test."""

from __future__ import annotations

import os
import signal
import threading

from hypothesis import settings

# The networks of the tests are too small for threads, which would wait for each other instead of
# working where several tests run side by side. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, and none fails for being slow.
settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("ci")

# A shell starts what runs in its background with SIGINT ignored, and processes inherit that: those
# that the tests interrupt would not notice.
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)
