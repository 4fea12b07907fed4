"""What tests of share groups share: what another member still gets, how much is left."""

from typing import Any

from kafkalite import Store, Topic
from kafkalite.share_group import ShareGroup


def drained(store: Store, topic: Topic[Any, Any], group_id: str = "g", **settings: Any) -> list[tuple[Any, int]]:
    """What another member still gets: values and delivery counts."""
    with store.share_group(group_id, [topic], **settings) as group:
        return [(record.value, record.delivery_count) for record in group.records()]


def lag(group: ShareGroup[Any, Any]) -> int:
    """How many records are not done."""
    return sum(group.lag().values())


def spans(group: ShareGroup[Any, Any]) -> list[dict[str, Any]]:
    """The runs of records of all partitions."""
    return [span for lane in group.describe() for span in lane["spans"]]  # type: ignore[attr-defined]
