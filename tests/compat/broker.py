"""Apache Kafka for tests: one KRaft broker on loopback, its jars fetched with Maven, stopped when the block is left.

The jars are kept in the directory that `KAFKALITE_KAFKA_JARS` names, else in one that goes with the tests. The broker
writes into a directory of the test's and listens on ports that were free just before. Needs `java` (17) and `mvn`.
"""

import base64
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KAFKA = "4.1.0"
LOG4J = "2.24.3"
ARTEFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
    ("org.apache.logging.log4j", "log4j-core", LOG4J),
)
VARIABLE = "KAFKALITE_KAFKA_JARS"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

PROJECT = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>kafkalite</groupId><artifactId>broker</artifactId><version>1</version>
<dependencies>{dependencies}</dependencies>
</project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"

SETTINGS = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
num.partitions={partitions}
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""


def jars(cache: Path) -> Path:
    """The directory with the broker's jars, fetched unless they are there."""
    folder = cache / f"kafka-{KAFKA}"
    if not folder.exists():
        work = cache / f"fetching-{uuid.uuid4().hex}"
        work.mkdir(parents=True)
        dependencies = "".join(DEPENDENCY.format(*artefact) for artefact in ARTEFACTS)
        (work / "pom.xml").write_text(PROJECT.format(dependencies=dependencies))
        _done("mvn", "-q", "-B", "-f", str(work), "dependency:copy-dependencies", f"-DoutputDirectory={work / 'jars'}")
        try:
            (work / "jars").rename(folder)
        except OSError:
            assert folder.exists()  # another process was faster
        shutil.rmtree(work)
    return folder


def _done(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, COLOUR.sub("", f"{command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@contextmanager
def apache_kafka(directory: Path, partitions: int) -> Iterator[str]:
    """A broker's address; topics that are created by their first record have so many partitions."""
    classes = f"{jars(Path(os.environ.get(VARIABLE) or directory / 'jars'))}/*"
    port, controller = _free_ports(2)
    settings = directory / "server.properties"
    settings.write_text(
        SETTINGS.format(port=port, controller=controller, data=directory / "data", partitions=partitions)
    )
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    format_it = ("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(settings))
    _done("java", "-cp", classes, *format_it)
    log = directory / "broker.log"
    with log.open("wb") as out:
        memory = ("-Xms256m", "-Xmx512m")
        process = subprocess.Popen(
            ["java", *memory, "-cp", classes, "kafka.Kafka", str(settings)], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(port, process, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when the broker answers."""
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the broker did not start:\n{log.read_text(errors='replace')[-2000:]}")
