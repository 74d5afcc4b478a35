"""Python's cyclic garbage collector, kept from stalling what is urgent.

A world of 1,000 policies is a million objects that live long and hold no cycles. The collector looks at all of them now and then
(its oldest generation), 0.2 s on a fast core, whenever it pleases: in the middle of a policy edit. So after a change everything
that is alive is taken out of its sight (``gc.freeze``); reference counts free it as before. When nothing has happened for a
while, one look at everything frees what cycles there were, and what the allocator holds for nobody goes back to the system.
"""

from __future__ import annotations

import ctypes
import gc

IDLE_S = 30.0
"""Quiet for this long, a stall of a fraction of a second is nobody's."""


class Heap:
    """When to look. Use from one thread; ``now_s``: ``time.monotonic``."""

    def __init__(self) -> None:
        self._quiet_since_s: float | None = None

    def changed(self, now_s: float) -> None:
        """Much may have been made: hide it from the collector until it is quiet."""
        gc.freeze()
        self._quiet_since_s = now_s

    def due_s(self) -> float | None:
        """When ``rest`` has something to do; None: nothing has changed since."""
        return None if self._quiet_since_s is None else self._quiet_since_s + IDLE_S

    def rest(self, now_s: float) -> bool:
        """Collect if it has been quiet for long enough; return whether that was done."""
        due_s = self.due_s()
        if due_s is None or now_s < due_s:
            return False
        self._quiet_since_s = None
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        # What reading and compiling everything took for a moment: glibc keeps it otherwise.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        return True
