"""Which attachments a configuration asks for."""

from __future__ import annotations

from urllib.parse import urlsplit

from poller.config.model import PracticeConfig
from poller.core.attachments import Rules


def attachment_rules(practice: PracticeConfig) -> Rules:
    """The practice's rules; their limits are empty where no feed asks for attachments."""
    limits = {name: feed.attachments.max_bytes for name, feed in practice.feeds.items() if feed.attachments is not None}
    return Rules(urlsplit(practice.base_url).path, limits)
