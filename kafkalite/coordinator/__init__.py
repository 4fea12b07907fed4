"""Who owns what: consumer groups and their assignors, share groups, transactions. Pure: no I/O, no clock."""
