"""Workers: a pool of processes that handle a group's records, and the supervisor that keeps it going.

Each worker (`worker`) is a process of its own, spawned, never forked, and a member of the group; the supervisor is
none. It starts them, starts anew those that crashed (after 0.1 s, then twice as long each time, up to 10 s; from the
start again after one that lasted), hands their words to the log, and ends them together:

    first SIGTERM or Ctrl-C, `group.stop()`    workers finish the record in hand and leave; `run` returns
    second SIGTERM or Ctrl-C                   workers are killed; the records in hand are handed out again
    a record failed for good, no dead letter   workers finish, and `run` raises `WorkerError` naming the record
    a worker that cannot start, three times    the same
    the supervisor is killed                   workers notice the end of their pipe, finish and leave

**A record that kills its worker** cannot be counted by the worker. What each has in hand stands in memory that it
shares with the supervisor, so that at a worker's death it is known whose fault it may be, and counted: by partition,
for only the first record that is not confirmed can be in hand there, so the count is forgotten when another one is. A
worker asks for the count before the first record of a partition that it gained. The partition of a dead worker may be
handed on before the supervisor has noticed the death: so whoever asks about a record that another worker's memory
still holds waits for that one's end. (The supervisor also removes a dead worker from the group, so that nobody has to
notice first.) Counts live as long as the supervisor. A worker that was killed from outside counts as well: nobody can
tell.
"""

import inspect
import multiprocessing
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from kafkalite import clock
from kafkalite.errors import ConcurrentUseError, ConfigError, WorkerError
from kafkalite.group_admin import remove_dead
from kafkalite.group_step import resolved
from kafkalite.log import log
from kafkalite.topic import Topic
from kafkalite.worker import (
    HANDLED,
    HANDLED_SIGNALS,
    HOLDS,
    LETTERS,
    LOG,
    MOST_KILLS,
    OFFSET,
    RETRIED,
    WORDS,
    Ask,
    Ended,
    Failed,
    Job,
    Place,
    Ready,
    Said,
    main,
    named,
    wait_before,
)

if TYPE_CHECKING:
    from kafkalite.consumer_group import ConsumerGroup

_log: Final = log().getChild("workers")
MOST_WORKERS: Final = 256
FALSE_STARTS: Final = 3
"""So often may a worker end before it has joined; then none can."""
TICK_SECONDS: Final = 0.1
"""How soon a signal is noticed."""
WATCH_SECONDS: Final = 0.5
LASTING_SECONDS: Final = 10.0
"""A worker that lived so long is started anew as if it were the first time."""
DEATH_SECONDS: Final = 1.0
"""For how long the end of a worker is awaited whose partition has another one already."""

Handler = Callable[[Any], object]


class WorkerStatus(NamedTuple):
    """One worker: `state` is starting, at work, waiting (to be started anew) or ended; counts are over all restarts."""

    number: int
    state: Literal["starting", "at work", "waiting", "ended"]
    pid: int | None
    handled: int
    retried: int
    letters: int
    restarts: int
    in_hand: Place | None


class Status(NamedTuple):
    """The pool as of now."""

    workers: tuple[WorkerStatus, ...]
    is_stopping: bool

    @property
    def handled(self) -> int:
        """Records that the handler has done."""
        return sum(one.handled for one in self.workers)

    @property
    def retried(self) -> int:
        """Failures after which a record was tried again."""
        return sum(one.retried for one in self.workers)

    @property
    def letters(self) -> int:
        """Records that were sent to the dead letter topic."""
        return sum(one.letters for one in self.workers)

    @property
    def restarts(self) -> int:
        """Workers that crashed and were started anew."""
        return sum(one.restarts for one in self.workers)


def run(
    group: "ConsumerGroup[Any, Any]",
    handler: Handler,
    *,
    workers: int = 1,
    retries: int = 3,
    dead_letter: "str | Topic[Any, Any] | None" = None,
    until: Literal["end"] | None = None,
    begin: Callable[[], object] | None = None,
    watch: Callable[[Status], object] | None = None,
    watch_seconds: float = WATCH_SECONDS,
) -> Status:
    """`ConsumerGroup.run`; `begin` is called first in each worker, `watch` every `watch_seconds` in this thread."""
    _check_numbers(workers, retries, until)
    if group._member is not None:
        raise ConcurrentUseError(
            f"group {group.group_id!r} is entered: run() starts members of its own, so call it outside of `with`"
        )
    if not group.settings["enable_auto_commit"]:
        raise ConfigError("enable_auto_commit=False does not go with run(): workers commit what their handler has done")
    group._engine.use()
    letters = _dead_letter(group, dead_letter)
    _check_handler(handler)
    job = Job(
        str(group._engine.place.path), group.group_id, group._subscription, group.settings,
        (group._on_assigned, group._on_revoked, group._on_lost), handler, retries, letters, until, begin,
    )  # fmt: skip
    _pickled(job)
    return _Pool(group, job, workers, watch, watch_seconds).run()


# What is given


def _check_numbers(workers: Any, retries: Any, until: Any) -> None:
    if type(workers) is not int or not 1 <= workers <= MOST_WORKERS:
        raise ConfigError(f"workers={workers!r} is not valid: give 1 to {MOST_WORKERS}")
    if type(retries) is not int or retries < 0:
        raise ConfigError(f"retries={retries!r} is not valid: give 0 or more")
    if until not in (None, "end"):
        raise ConfigError(f"until={until!r} is not valid: give 'end', or None to go on for ever")


def _dead_letter(group: "ConsumerGroup[Any, Any]", given: "str | Topic[Any, Any] | None") -> str | None:
    """The name of the dead letter topic; raises `UnknownTopicError`, `ConfigError`."""
    if given is None:
        return None
    name = given.name if isinstance(given, Topic) else given
    group._engine.topic(name)
    subscription = group._subscription
    if name in resolved(group._engine, tuple(subscription.serdes), subscription.patterns):
        raise ConfigError(f"dead_letter={name!r} is a topic that the group itself reads: give another")
    return name


def _check_handler(handler: Any) -> None:
    """Raise `ConfigError` unless another process can import the handler."""
    if not callable(handler):
        raise ConfigError(f"handler={handler!r} is not valid: give a function that takes a record")
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        raise ConfigError(f"the handler {name!r} is asynchronous, and workers call it without a loop: give a plain one")
    why = ""
    if "<lambda>" in name:
        why = "it is a lambda, which has no name to import it by"
    elif "<locals>" in name:
        why = "it is defined inside of a function"
    elif getattr(handler, "__module__", "") == "__main__" and not _has_main_file():
        why = "it was typed into an interpreter, whose module no other process can import"
    if why:
        raise ConfigError(f"the handler {name!r} cannot be imported by worker processes: {why}; {_FIX}")
    try:
        pickle.dumps(handler)
    except Exception as error:
        raise ConfigError(f"the handler {name!r} cannot be imported by worker processes: {error}; {_FIX}") from error


_FIX: Final = (
    "define it at the top of a module, or of a script whose own work stands below `if __name__ == '__main__':`"
)


def _has_main_file() -> bool:
    main_module = sys.modules["__main__"]
    name = getattr(main_module, "__file__", None)
    return getattr(main_module, "__spec__", None) is not None or (name is not None and not name.startswith("<"))


def _pickled(job: Job) -> bytes:
    try:
        return pickle.dumps(job)
    except Exception as error:
        raise ConfigError(
            f"group {job.group_id!r} cannot be handed to worker processes: {error}; its types, settings and callbacks "
            "have to be importable by name"
        ) from error


# The pool


class _Post:
    """One worker's place in the pool, over all processes that fill it."""

    def __init__(self, number: int, words: Any) -> None:
        self.number = number
        self.words = words
        self.process: Any = None
        self.connection: Connection | None = None
        self.due = 0.0
        """When to start it, by the monotonic clock."""
        self.began = 0.0
        self.is_ready = False
        self.has_ended = False
        self.crashes = 0
        """In a row."""
        self.false_starts = 0
        self.restarts = 0

    def held(self) -> tuple[int, int] | None:
        """Log id and offset of the record that its handler has."""
        return (self.words[LOG], self.words[OFFSET]) if self.words[HOLDS] else None


class _Pool:
    def __init__(
        self,
        group: "ConsumerGroup[Any, Any]",
        job: Job,
        workers: int,
        watch: Callable[[Status], object] | None,
        watch_seconds: float,
    ) -> None:
        self._group = group
        self._job = job
        self._watch = watch
        self._watch_seconds = watch_seconds
        self._watch_at = 0.0
        self._context = multiprocessing.get_context("spawn")
        self._posts = [_Post(number, self._context.RawArray("q", WORDS)) for number in range(1, workers + 1)]
        self._kills: dict[int, tuple[int, int]] = {}
        """By log id: the offset of the record that kills, and how often it did."""
        self._names: dict[int, tuple[str, int]] = {}
        self._signals: list[int] = []
        self._is_stopping = False
        self._failure: WorkerError | None = None

    def run(self) -> Status:
        """Until all workers have ended."""
        self._group._stops = False
        resource_tracker.ensure_running()  # it would unblock in `_start` what is blocked there
        try:
            with self._signals_noted():
                while not all(post.has_ended for post in self._posts):
                    self._round()
        finally:
            self._kill()
            self._group._stops = False
        if self._watch is not None:
            self._watch(self.status())
        if self._failure is not None:
            raise self._failure
        return self.status()

    def status(self) -> Status:
        """The pool as of now."""
        return Status(tuple(map(self._status_of, self._posts)), self._is_stopping)

    def _status_of(self, post: _Post) -> WorkerStatus:
        state: Literal["starting", "at work", "waiting", "ended"] = "waiting"
        if post.has_ended:
            state = "ended"
        elif post.process is not None:
            state = "at work" if post.is_ready else "starting"
        words, held = post.words, post.held()
        return WorkerStatus(
            post.number, state, post.process.pid if post.process is not None else None,
            words[HANDLED], words[RETRIED], words[LETTERS], post.restarts,
            None if held is None or held[0] not in self._names else (*self._names[held[0]], held[1]),
        )  # fmt: skip

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        """SIGTERM and SIGINT are noted, where this thread may have handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda got, _: self._signals.append(got)) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _round(self) -> None:
        """Start who is due, and look after what happens next."""
        if (self._signals or self._group._stops) and not self._is_stopping:
            _log.info("stopping: the records in hand are finished; a second signal ends at once")
            self._stop()
        if len(self._signals) > 1:
            self._kill()
            raise KeyboardInterrupt if self._signals[1] == signal.SIGINT else SystemExit(128 + self._signals[1])
        now = clock.monotonic()
        for post in self._posts:
            if post.process is None and not post.has_ended and post.due <= now:
                self._start(post)
        watched: list[Any] = []
        for post in self._posts:
            if post.process is not None:
                watched += (post.connection, post.process.sentinel)
        if watched:
            wait(watched, TICK_SECONDS)
        else:
            clock.sleep(TICK_SECONDS)
        for post in self._posts:
            self._look_at(post)
        if self._watch is not None and now >= self._watch_at:
            self._watch_at = now + self._watch_seconds
            self._watch(self.status())

    def _start(self, post: _Post) -> None:
        mine, its = self._context.Pipe()
        settings = dict(self._job.settings)
        settings["client_id"] = f"{settings['client_id']}-{post.number}"
        if settings["group_instance_id"] is not None:
            settings["group_instance_id"] = f"{settings['group_instance_id']}-{post.number}"
        job = pickle.dumps(self._job._replace(settings=settings))
        name = f"kafkalite-worker-{post.number}"
        post.words[HOLDS] = 0
        post.process = self._context.Process(target=main, args=(its, post.words, job), name=name)
        blocked = signal.pthread_sigmask(
            signal.SIG_BLOCK, HANDLED_SIGNALS
        )  # the child inherits it, and has no handlers
        try:
            post.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            its.close()
        post.connection, post.is_ready, post.began = mine, False, clock.monotonic()

    def _look_at(self, post: _Post) -> None:
        """Hear what a worker says, and notice its end."""
        if post.process is None:
            return
        has_ended = not post.process.is_alive()  # asked first: what it said before it ended is heard
        assert post.connection is not None
        try:
            while post.process is not None and post.connection.poll():
                self._hear(post, post.connection.recv())
        except (EOFError, OSError):
            pass
        if has_ended and post.process is not None:
            self._note_end(post)

    def _hear(self, post: _Post, said: object) -> None:
        match said:
            case Ready():
                post.is_ready, post.false_starts = True, 0
                _log.info("worker %d is at work (process %d)", post.number, post.process.pid)
            case Ask(place=place, log_id=log_id):
                self._answer(post, place, log_id)
            case Said(level=level, text=text):
                _log.log(level, "worker %d: %s", post.number, text)
            case Failed(text=text, place=place):
                self._fail(text, place)
            case Ended():
                post.has_ended = True

    def _answer(self, post: _Post, place: Place, log_id: int) -> None:
        """How many workers this record has killed, those included that have just died of it."""
        self._names[log_id] = place[:2]
        for other in self._posts:
            if other is not post and other.process is not None and other.held() == (log_id, place[2]):
                other.process.join(DEATH_SECONDS)
                self._look_at(other)
        offset, kills = self._kills.get(log_id, (-1, 0))
        assert post.connection is not None
        try:
            post.connection.send(kills if offset == place[2] else 0)
        except OSError:  # it has ended meanwhile
            return

    def _note_end(self, post: _Post) -> None:
        """A process ended: because it was told to, or it is started anew."""
        status, lived = post.process.exitcode, clock.monotonic() - post.began
        held = post.held()
        post.words[HOLDS] = 0
        post.process.join()
        post.process.close()
        assert post.connection is not None
        post.connection.close()
        post.process, post.connection = None, None
        remove_dead(self._group._engine)
        what = _ending(status)
        if held is not None:
            what += self._count_kill(held)
        if post.has_ended or self._is_stopping:
            post.has_ended = True
            _log.info("worker %d %s", post.number, what)
            return
        post.crashes = 1 if lived > LASTING_SECONDS else post.crashes + 1
        post.restarts += 1
        if not post.is_ready:
            post.false_starts += 1
            if post.false_starts >= FALSE_STARTS:
                self._fail(f"worker {post.number} {what} {FALSE_STARTS} times before it had joined its group", None)
        seconds = wait_before(post.crashes)
        post.due = clock.monotonic() + seconds
        if not self._is_stopping:
            _log.warning("worker %d %s; another one in %g s", post.number, what, seconds)
        post.has_ended = self._is_stopping

    def _count_kill(self, held: tuple[int, int]) -> str:
        """Blame a record for a worker's end; what to say of it."""
        log_id, offset = held
        before, kills = self._kills.get(log_id, (-1, 0))
        kills = kills + 1 if before == offset else 1
        self._kills[log_id] = offset, kills
        place = (*self._names[log_id], offset)
        if kills >= MOST_KILLS and self._job.dead_letter is None:
            self._fail(f"{named(place)} killed its worker {kills} times; there is no dead letter topic", place)
        return f" with {named(place)} in hand, {kills} of {MOST_KILLS}"

    # Ending

    def _fail(self, text: str, place: Place | None) -> None:
        if self._failure is None:
            fix = "mend the handler, or give dead_letter=; it is handed out again by the next run"
            self._failure = WorkerError(f"{text}: {fix}" if place else text, place)
            _log.error("%s", text)
        self._stop()

    def _stop(self) -> None:
        """Tell all workers to end; those that wait to be started are not."""
        self._is_stopping = True
        for post in self._posts:
            if post.process is None:
                post.has_ended = True
            else:
                post.process.terminate()

    def _kill(self) -> None:
        """End what still runs, at once; nobody has to find out that it is no member any more."""
        running = [post.process for post in self._posts if post.process is not None]
        for process in running:
            process.kill()
        for process in running:
            process.join()
        if running:
            remove_dead(self._group._engine)


_SIGNALS: Final[Mapping[int, str]] = {-number: number.name for number in signal.Signals}


def _ending(status: int) -> str:
    return f"was ended by {_SIGNALS.get(status, status)}" if status < 0 else f"ended with status {status}"
