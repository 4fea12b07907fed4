"""A progress bar for calls that say how far they are as (done, in all), and know what there is only once they began.

with advancing(f"copying {store}", "bytes") as tell:
    opened.backup(target, progress=tell)
"""

import contextlib
from collections.abc import Callable, Iterator

from kafkalite.cli.output import Unit, progress


@contextlib.contextmanager
def advancing(what: str, unit: Unit) -> Iterator[Callable[[int, int], None]]:
    """Give the block what such a call wants as its `progress`; the bar is `output.progress`."""
    with contextlib.ExitStack() as stack:
        step: Callable[[int], None] | None = None
        reached = 0

        def tell(done: int, total: int) -> None:
            nonlocal step, reached
            if step is None:
                step = stack.enter_context(progress(what, total, unit))
            step(done - reached)
            reached = done

        yield tell
