"""Use: one call of a group's owner. Refuses a second thread, a forked child, a closed store, a group not entered."""

from typing import TYPE_CHECKING, Any

from kafkalite.errors import ConcurrentUseError, ForkedError
from kafkalite.membership import Membership

if TYPE_CHECKING:
    from kafkalite.consumer_group import ConsumerGroup


class Use:
    """One call of a group's owner: refuses a second thread, a forked child, a closed store."""

    __slots__ = ("_group", "_joins", "_patience")

    def __init__(self, group: "ConsumerGroup[Any, Any]", *, joins: bool, patience: float) -> None:
        self._group = group
        self._joins = joins
        self._patience = patience

    def __enter__(self) -> Membership:
        group = self._group
        if group._incarnation != group._engine.incarnation:
            raise ForkedError(f"this membership of {group.group_id!r} is the parent process's: join in the child")
        if not group._engine.is_open:
            group._engine.use()
        if group._member is None and not self._joins:
            group._entered()
        if not group._thread.acquire(blocking=False) and not self._stopped():
            raise ConcurrentUseError(
                f"another thread uses this member of group {group.group_id!r}: make one for each thread"
            )
        return group._member  # type: ignore[return-value]  # None only in `join`, which does not look at it

    def _stopped(self) -> bool:
        """Whether the thread that uses the group, told to stop, lets it go in time: for who closes it."""
        if not self._patience:
            return False
        self._group.stop()
        return self._group._thread.acquire(timeout=self._patience)

    def __exit__(self, *_: object) -> None:
        self._group._thread.release()
