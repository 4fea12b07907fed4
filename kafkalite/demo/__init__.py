"""The demo: a month of real events through a store, and the proofs that a stranger would ask for.

`tour` is the whole walk and only composes. Each part is a noun of its own: `flights` (the data), `ingest`,
`readers`, `replay`, `summary` (what the data says), `crash`, `groups`. Parts measure and return plain results; `report`
alone prints. `reader`, `writer`, `checker` and `member` are programs: they run in child processes started by `child`.

Everything here goes through the public face (`import kafkalite`), so that it reads as a user's program would.
"""


class DemoFailedError(RuntimeError):
    """Something that the demo set out to show did not hold; the message says what."""
