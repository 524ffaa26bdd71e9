"""A process that detects on scenes which another one plans: both ends of it.

The engine of several processes (`geosod.running.process_engine`) starts it and talks to it through its standard input
and output, in pickles: an `Order`, then plans; the answers are events and results. A plan is sent for every `Wants`;
None says that there are no more, and the end of the input, that the run is stopped.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from geosod.errors import EngineError, GeosodError
from geosod.machine import interpreter
from geosod.running.events import TilesDetected, UnitSettled, Writing

if TYPE_CHECKING:
    from geosod.running.destination import Sink
    from geosod.running.job import Job
    from geosod.running.planning import ScenePlan

#: Plans that wait in the process, so that it never waits for one.
AHEAD = 4
#: Seconds for which a process that is stopped may end what it is doing.
CLOSING = 25.0
#: Seconds for which what is said of every batch may wait for something else to be said.
_PATIENCE = 1.0
#: The line after which the process answers; before it, whatever Python prints as it starts.
_BEGIN = b"geosod.running.scene_process answers from here on\n"


@dataclass(frozen=True, slots=True)
class Order:
    """What a process gets first.

    Attributes:
        job: what its scenes share.
        sink: where their outputs go.
        measure: job and number of scenes of the whole run, where the process is to measure backends before it begins.
    """

    job: Job
    sink: Sink
    measure: tuple[Job, int] | None


@dataclass(frozen=True, slots=True)
class Wants:
    """The process has begun with a plan and can be sent another."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The process has no more to do; `error` is what kept it from going on, or None."""

    error: Exception | None = None


class SceneProcess:
    """The end that the engine holds.

    Args:
        cpus: numbers of the CPUs that the process may use; none for all.
        said: takes the process with everything that it says, and at last with None.
        again: scenes that it is to try again, and no others; None where it gets new scenes.

    Attributes:
        waiting: plans that it was sent and has not begun with.
        begun: plans that it is working on, by scene.
        ready: number of its detectors that are loaded.
    """

    def __init__(
        self, cpus: list[int], said: SimpleQueue[tuple[SceneProcess, Any]], again: list[ScenePlan] | None = None
    ) -> None:
        self.again, self.ready = again, 0
        self.waiting: deque[ScenePlan] = deque()
        self.begun: dict[str, ScenePlan] = {}
        self._cpus, self._said, self._all_sent = cpus, said, False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        package = str(Path(__file__).parents[2])
        path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str) and entry]  # noqa: PTH100
        code = f"import sys; sys.path[:] = {[*path, package]!r}; from {__name__} import main; main()"
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        self._process = subprocess.Popen(
            [interpreter() or sys.executable, *flags, "-P", "-c", code, ",".join(map(str, self._cpus))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process, which stops the others
        )
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def send(self, message: Order | ScenePlan | None) -> None:
        """Send something; where the process is dead, its last word says so."""
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError):
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def give(self, plan: ScenePlan | None) -> None:
        """Send a plan; None for no more, once."""
        if plan is not None:
            self.waiting.append(plan)
        elif self._all_sent:
            return
        self._all_sent = plan is None
        self.send(plan)

    def begin(self) -> None:
        """It has begun with the plan that has waited longest."""
        plan = self.waiting.popleft()
        self.begun[plan.scene.id] = plan

    def end(self, scene_id: str, uri: str) -> None:
        """It has ended a scene, perhaps under another identifier than it got it with."""
        same = (name for name, plan in self.begun.items() if plan.scene.ref.uri == uri)
        self.begun.pop(scene_id if scene_id in self.begun else next(same, ""), None)

    def stop(self) -> None:
        """Let it end what it is doing."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def wait(self, patience: float) -> str:
        """How it ended, in words; one that takes more than so many seconds is killed."""
        if self._process is None:
            return "not started"
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _listen(self) -> None:
        """In a thread of its own."""
        assert self._process is not None
        answers = self._process.stdout
        assert answers is not None
        try:
            while answers.readline() not in (_BEGIN, b""):
                pass
            while True:
                self._said.put((self, pickle.load(answers)))
        except Exception:
            # The end, or what it cannot have written; either way nothing more comes that can be understood.
            self._said.put((self, None))


class _Inbox:
    """What the process gets, and its answers."""

    def __init__(self) -> None:
        self._in, self._out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # what libraries print
        self._came: SimpleQueue[Any] = SimpleQueue()
        self._flushed = time.monotonic()
        self._out.write(_BEGIN)
        self._out.flush()
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def order(self) -> Order | None:
        """What the process gets first; None where it is not needed after all."""
        order: Order | None = self._came.get()
        return order

    def plans(self) -> Iterator[ScenePlan]:
        """All plans."""
        while (plan := self._came.get()) is not None:
            self.say(Wants())
            yield plan

    def say(self, message: Any) -> None:
        """Answer; what is said of every batch goes along with another answer, since each wakes the other process."""
        pickle.dump(message, self._out)
        soon = isinstance(message, TilesDetected | UnitSettled | Writing)
        if not soon or time.monotonic() - self._flushed > _PATIENCE:
            self._out.flush()
            self._flushed = time.monotonic()

    def _listen(self) -> None:
        with suppress(Exception):  # whatever the end of what a dying process writes looks like
            while True:
                self._came.put(pickle.load(self._in))
        # The run is stopped, or the process that started this one is dead.
        self._came.put(None)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(CLOSING)
        os._exit(1)


@contextmanager
def _bound_to(cpus: Collection[int]) -> Iterator[Collection[int]]:
    """In the block this thread, and those that it starts, run on these CPUs; none for those on which it does so far."""
    before: Collection[int] = os.sched_getaffinity(0) if cpus else ()
    if cpus:
        os.sched_setaffinity(0, cpus)
    yield before
    if cpus:
        os.sched_setaffinity(0, before)


def _work(inbox: _Inbox, everywhere: Collection[int]) -> Ended:
    """What the process does, which is bound to CPUs, of those that may be used `everywhere` else."""
    from geosod.running import local_engine  # imports torch: before the order comes, there is time for it
    from geosod.running.automatic import measure_before
    from geosod.running.job import resolve_execution

    gc.freeze()  # collections that look at all that was imported take tenths of a second each
    order = inbox.order()
    if order is None:
        return Ended()
    plans = inbox.plans()
    try:
        first = next(plans, None)
        if first is None:
            return Ended()
        if order.measure is not None:
            with _bound_to(everywhere):  # as in a run of one process
                measure_before(order.measure[0], first, order.measure[1], inbox.say)
                resolve_execution(order.measure[0])
        for result in local_engine.run(order.job, chain([first], plans), order.sink, inbox.say):
            inbox.say(result)
    except Exception as error:
        return Ended(_sendable(error))
    return Ended()


def _sendable(error: Exception) -> Exception:
    """The error, or what can be said of it where the other process may not know its class."""
    if isinstance(error, GeosodError):
        return error
    known = type(error).__module__ == "builtins"
    sent: Exception = error if known else EngineError(f"{type(error).__name__}: {error}")
    sent.add_note(format_exc())  # the other process raises it elsewhere
    return sent


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a shell has made of it
    try:
        inbox = _Inbox()
        with _bound_to([int(number) for number in sys.argv[1].split(",") if number]) as everywhere:
            inbox.say(_work(inbox, everywhere))
    except (KeyboardInterrupt, EOFError, OSError):
        os._exit(1)
    os._exit(0)  # at once, rather than take libraries down one after the other
