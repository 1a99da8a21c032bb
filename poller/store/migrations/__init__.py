"""Alembic migrations: the schema and its roles."""
