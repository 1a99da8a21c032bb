"""Commands by the noun they act on; :mod:`poller.cli` puts them together."""
