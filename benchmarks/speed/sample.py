"""Run elsa and sample where its threads spend their CPU time.

`python -m benchmarks.speed.sample OUT ARGUMENTS…` writes to OUT a JSON list of
[function, user seconds, system seconds], largest first.

A thread beside elsa's own wakes every few milliseconds, reads from /proc how much CPU time each
thread took since the last sample, and gives it to the function of elsa in which that thread is now.
A thread that waits takes no time, so waiting does not show. With samples at 0, 4 and 8 ms and a
thread that is in `tally` at 4 and in `write` at 8, having used 4 ms each time, both get 4 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType

__all__ = ["Sampler", "label"]

INTERVAL = 0.004  # seconds
TICK = 1 / os.sysconf("SC_CLK_TCK")
NATIVE = "threads that run no Python"
OUTSIDE = "the interpreter"
IMPORTS = "imports"
REST = "the sampler, and between its samples"


def label(frame: FrameType | None) -> str:
    """Return the innermost function of elsa that a frame is in, such as `core/work.py: run`."""
    inner: str | None = None
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib"):
            return IMPORTS
        _, inside, file = code.co_filename.rpartition("/elsa_cli/")
        if inside and inner is None:
            inner = IMPORTS if code.co_name == "<module>" else f"{file}: {code.co_name}"
        frame = frame.f_back
    return OUTSIDE if inner is None else inner


class Sampler(threading.Thread):
    """Gives CPU time to functions until it is stopped.

    Attributes:
        spent: User and system seconds, by function.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__(daemon=True)
        self.spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._seen: dict[int, list[float]] = {}
        self._done = threading.Event()

    def run(self) -> None:
        """Take samples."""
        while not self._done.wait(INTERVAL):
            self.take()

    def take(self) -> None:
        """Give each thread's time since the last sample to where it is now."""
        frames = sys._current_frames()
        idents = {t.native_id: t.ident for t in threading.enumerate() if t is not self}
        for task in os.listdir("/proc/self/task"):
            number = int(task)
            if number == self.native_id:
                continue
            with contextlib.suppress(OSError):  # the thread ended
                now = _seconds(number)
                before = self._seen.get(number, [0.0, 0.0])
                self._seen[number] = now
                used = [b - a for a, b in zip(before, now, strict=True)]
                if any(used):
                    ident = idents.get(number)
                    name = NATIVE if ident is None else label(frames.get(ident))
                    self.spent[name] = [a + b for a, b in zip(self.spent[name], used, strict=True)]

    def stop(self) -> list[tuple[str, float, float]]:
        """End, and return the time of each function, largest first."""
        self._done.set()
        self.join()
        self.take()
        now = os.times()
        whole = [now.user, now.system]
        rest = [max(0.0, w - sum(s[n] for s in self.spent.values())) for n, w in enumerate(whole)]
        self.spent[REST] = rest
        found = [(name, user, system) for name, (user, system) in self.spent.items()]
        return sorted(found, key=lambda share: -share[1] - share[2])


def _seconds(task: int) -> list[float]:
    """Return the user and system seconds of a thread so far."""
    text = Path(f"/proc/self/task/{task}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()  # a thread's name may have spaces
    return [int(fields[11]) * TICK, int(fields[12]) * TICK]


def main() -> None:
    """Run elsa under the sampler."""
    target = Path(sys.argv[1])
    sys.argv[:2] = ["elsa"]
    sampler = Sampler()
    sampler.start()
    try:
        from elsa_cli.cli import main as elsa

        elsa()
    finally:
        target.write_text(json.dumps(sampler.stop()))


if __name__ == "__main__":
    main()
