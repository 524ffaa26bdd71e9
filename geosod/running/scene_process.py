"""A process that detects on scenes which another one plans: both ends of it.

The engine of several processes (`geosod.running.process_engine`) starts it and talks to it through its standard input
and output, in pickles: an `Order`, then plans; the answers are events and results. A plan is sent for every `Wants`;
None says that there are no more, and the end of the input, that the run is stopped.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from geosod.errors import EngineError
from geosod.running.events import TilesDetected, UnitSettled, Writing

if TYPE_CHECKING:
    from geosod.running.destination import Sink
    from geosod.running.job import Job
    from geosod.running.planning import ScenePlan

#: Plans that wait in the process, so that it never waits for one.
AHEAD = 4
#: Seconds for which a process that is stopped may end what it is doing.
CLOSING = 25.0


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is told first.

    Attributes:
        job: what its scenes share.
        sink: where their outputs go.
        scenes: about how many it will get, where it is to measure backends before it begins; else None.
    """

    job: Job
    sink: Sink
    scenes: int | None


@dataclass(frozen=True, slots=True)
class Wants:
    """The process has taken a plan and can be sent another."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The process has no more to do; `error` is what kept it from going on, or None."""

    error: Exception | None = None


class SceneProcess:
    """The end that the engine holds.

    Args:
        cpus: numbers of the CPUs that the process may use; none for all.
        said: takes the process with everything that it says, and at last with None.
        again: scenes that it is to try again, after it is given no others; None for one that is given new scenes.

    Attributes:
        given: plans by scene, which it has not ended.
        ready: number of its detectors that are loaded.
    """

    def __init__(
        self, cpus: list[int], said: SimpleQueue[tuple[SceneProcess, Any]], again: list[ScenePlan] | None = None
    ) -> None:
        self.again, self.given, self.ready = again, dict[str, "ScenePlan"](), 0
        self._said, self._told_all = said, False
        path = os.pathsep.join(filter(None, sys.path))  # "" would be any folder that this one happens to be in
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()", ",".join(map(str, cpus))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for this process, which tells the others
        )
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def tell(self, message: Order | ScenePlan | None) -> None:
        """Send something; where the process is dead, its last word says so."""
        assert self._process.stdin is not None
        with suppress(OSError):
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def give(self, plan: ScenePlan | None) -> None:
        """Send a plan; None for no more, once."""
        if plan is not None:
            self.given[plan.scene.id] = plan
        elif self._told_all:
            return
        self._told_all = plan is None
        self.tell(plan)

    def end(self, scene_id: str, uri: str) -> None:
        """A scene is ended, perhaps under another identifier than it was given with."""
        same = (name for name, plan in self.given.items() if plan.scene.ref.uri == uri)
        self.given.pop(scene_id if scene_id in self.given else next(same, ""), None)

    def stop(self) -> None:
        """Let it end what it is doing."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def wait(self, patience: float = CLOSING) -> str:
        """How it ended, in words; one that takes more than so many seconds is killed."""
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _listen(self) -> None:
        """In a thread of its own."""
        assert self._process.stdout is not None
        try:
            while True:
                self._said.put((self, pickle.load(self._process.stdout)))
        except (EOFError, OSError, pickle.UnpicklingError):
            self._said.put((self, None))


class _Inbox:
    """Plans as they come, in the process."""

    def __init__(self) -> None:
        self._in, self._out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # what libraries print
        self._plans: SimpleQueue[ScenePlan | None] = SimpleQueue()

    def order(self) -> Order:
        """What the process is told first."""
        order = pickle.load(self._in)
        assert isinstance(order, Order)
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()
        return order

    def plans(self) -> Iterator[ScenePlan]:
        """All plans."""
        while (plan := self._plans.get()) is not None:
            self.say(Wants())
            yield plan

    def say(self, message: Any) -> None:
        """Answer; what is said of every batch goes along with the next answer, since each wakes the other process."""
        pickle.dump(message, self._out)
        if not isinstance(message, TilesDetected | UnitSettled | Writing):
            self._out.flush()

    def _listen(self) -> None:
        try:
            while True:
                self._plans.put(pickle.load(self._in))
        except (EOFError, OSError):
            # The run was stopped, or the process that started this one is dead.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


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
    for module in ("torch", "geosod.running.local_engine"):
        import_module(module)  # while nothing else can be done
    from geosod.running import local_engine
    from geosod.running.automatic import measure_before
    from geosod.running.job import resolve_execution

    order = inbox.order()
    plans = inbox.plans()
    try:
        first = next(plans, None)
        if first is None:
            return Ended()
        if order.scenes is not None:
            with _bound_to(everywhere):  # as in a run of one process
                measure_before(order.job, first, order.scenes, inbox.say)
                resolve_execution(order.job)
        for result in local_engine.run(order.job, chain([first], plans), order.sink, inbox.say):
            inbox.say(result)
    except Exception as error:
        return Ended(_sendable(error))
    return Ended()


def _sendable(error: Exception) -> Exception:
    """The error, or what can be said of it where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EngineError(f"{type(error).__name__}: {error}")
    return error


def main() -> None:
    """The process."""
    inbox = _Inbox()
    try:
        with _bound_to([int(number) for number in sys.argv[1].split(",") if number]) as everywhere:
            inbox.say(_work(inbox, everywhere))
    except (KeyboardInterrupt, EOFError, OSError):
        os._exit(1)
    os._exit(0)  # at once, rather than take libraries down one after the other
