"""What tests against other people's servers have in common."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "thirdparty: against an R4 server from PyPI, a process of its own; skipped where it is not installed"
    )
