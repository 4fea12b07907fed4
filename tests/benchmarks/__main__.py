"""`python -m tests.benchmarks`: runs the subjects and prints a table for each, about two minutes in all."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import commit, flush, footprint, groups, read, report, send
from tests.benchmarks.measure import FULL, QUICK, Outcome, Subject, run
from tests.benchmarks.peers import Prototypes

if TYPE_CHECKING:
    from collections.abc import Sequence

FAMILIES = (commit, flush, read, send, groups, footprint)
PROTOTYPES_VARIABLE = "KAFKALITE_PROTOTYPES"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    place = options.prototypes or os.environ.get(PROTOTYPES_VARIABLE)
    try:
        prototypes = Prototypes(Path(place)) if place else None
        chosen = _chosen(options.only, prototypes)
    except (FileNotFoundError, LookupError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    outcomes: list[Outcome] = []
    for subject in chosen:
        if not options.json:
            sys.stderr.write(f"{subject.name} ...\n")
        outcomes.append(run(subject, QUICK if options.quick else FULL, options.directory))
        if not options.json:
            report.show(outcomes[-1])
    if options.json:
        sys.stdout.write(json.dumps(report.document(outcomes), indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one very short round: shows that it works")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="only this subject; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document with all samples")
    parser.add_argument(
        "--prototypes",
        metavar="PATH",
        help=f"measure the prototypes in this directory as well (or {PROTOTYPES_VARIABLE})",
    )
    parser.add_argument(
        "--directory", type=Path, metavar="PATH", help="where stores are made; the disk that is measured"
    )
    return parser


def _chosen(names: list[str], prototypes: Prototypes | None) -> list[Subject]:
    known = {subject.name: subject for family in FAMILIES for subject in family.subjects(prototypes)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LookupError(f"no subject {', '.join(unknown)}: --only takes {', '.join(known)}")
    return [known[name] for name in names] if names else list(known.values())


if __name__ == "__main__":
    raise SystemExit(main())
