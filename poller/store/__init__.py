"""Postgres: snapshots, history, the event log, and where every reader stands."""
