"""The configuration: YAML to a typed, immutable model, or every problem at once with file, line and what would be right.

``document`` reads YAML with its lines, ``defaults`` merges, ``refusals`` looks for secrets and contradictions, ``model`` says the shape,
``loader`` puts them together.
"""

from poller.config.active import ActiveHours
from poller.config.feed import FeedConfig
from poller.config.loader import data_directory, load, problem_at, problems
from poller.config.model import (
    BrokerConfig,
    BudgetConfig,
    Config,
    DeletesConfig,
    HttpConfig,
    LoggingConfig,
    PatientsConfig,
    PracticeConfig,
    StoreConfig,
)
from poller.config.secret import Secret
from poller.config.sinks import SinkConfig, SinkFilter

__all__ = [
    "ActiveHours",
    "BrokerConfig",
    "BudgetConfig",
    "Config",
    "DeletesConfig",
    "FeedConfig",
    "HttpConfig",
    "LoggingConfig",
    "PatientsConfig",
    "PracticeConfig",
    "Secret",
    "SinkConfig",
    "SinkFilter",
    "StoreConfig",
    "data_directory",
    "load",
    "problem_at",
    "problems",
]
