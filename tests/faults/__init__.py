"""The fault suite: every fault of one machine is injected, and what came of it is counted in `ledger`."""
