"""What kafkalite costs beside SQLite and beside bare prototypes: `python -m tests.benchmarks`.

A single figure says little on a shared machine, so every subject interleaves its contestants (A B C, B C A,
...) for several rounds and reports medians with their spread, and ratios taken within one round. Only the
public face is used.

- `measure`: what a contestant is, the clock, the rounds
- `peers`: SQLite and the prototypes
- `commit`, `read`, `send`, `flush`, `groups`, `footprint`: one subject family each
- `report`: tables and JSON
"""
