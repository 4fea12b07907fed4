"""`python -m kafkalite.compat.confluent_kafka` prints what confluent_kafka has and this package does not."""

import sys

from kafkalite.compat.confluent_kafka.absent import listed

if __name__ == "__main__":
    sys.stdout.write(f"{listed()}\n")
