"""Topics that grow under several processes at once: one number of partitions in the end, each with a log of its own."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from kafkalite.testing import procs
from tests import elsewhere
from tests.conftest import OpenStore

GROW: Final = """
import json, kafkalite, sys
with kafkalite.connect(sys.argv[1]) as store:
    topic, reached = store.topic("t"), []
    print("ready")
    sys.stdin.readline()
    for partitions in range(2, 40):
        try:
            topic.alter(partitions=partitions)
        except kafkalite.InvalidPartitionsError:
            continue
        reached.append(partitions)
        topic.append(b"%d" % partitions, partition=partitions - 1)
        store.topic(f"{sys.argv[2]}-{partitions}")
    print("reached", json.dumps(reached))
"""


def test_processes_that_grow_a_topic_at_once_each_add_their_own(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store(tmp_path / "s.klite", durability="none")
    topic = store.topic("t")
    with ExitStack() as stack:
        target = elsewhere.target(store.path)
        children = [stack.enter_context(procs.python(GROW, target, name)) for name in "abc"]
        for child in children:
            child.wait_for("ready")
        for child in children:
            child.say("go")
        reached = [json.loads(child.wait_for("reached").removeprefix("reached")) for child in children]
        for child in children:
            child.succeed()
    assert sorted(number for some in reached for number in some) == list(range(2, 40))
    assert [record.value for record in topic.tail(1)] == [b"%d" % number for number in range(2, 40)]
    logs = [log for name in store.topics() for log in store._engine.topic(name).log_ids]
    assert len(set(logs)) == len(logs)
