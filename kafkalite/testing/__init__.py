"""Tools for testing kafkalite and what is built on it: golden scripts, real processes.

Apart from the rest: it may look into everything, and nothing but tests imports it.
"""
