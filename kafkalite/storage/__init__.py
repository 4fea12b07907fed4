"""The engine: one journal for all partitions, an index derived from it, and the locks between processes."""
