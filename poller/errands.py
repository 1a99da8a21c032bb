"""What a practice's errands are made of: the adapters of :mod:`poller.beside`, put together for :mod:`poller.app`."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine as Database

from poller.attachments import Attacher
from poller.beside import Errands
from poller.clock import Clock
from poller.config import PracticeConfig
from poller.core.attachments import Fetched
from poller.core.model import Purpose
from poller.export import Exporter
from poller.patients import PatientFinder
from poller.source import binary
from poller.source.bulk import Bulk
from poller.source.group import GroupRoll
from poller.source.strategies import Source
from poller.store.attachments import AttachmentStore
from poller.store.exports import ExportStore
from poller.store.patients import PatientStore
from poller.store.repository import Lease, Repository
from poller.store.vault import PLAIN, Vault


class _Binaries:
    """Attachments of one practice's server."""

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source = source
        self._clock = clock

    async def attachment(self, id_: str, max_bytes: int) -> Fetched:
        """Read one Binary of at most so many bytes."""
        return await binary.fetch(self._source.client, self._clock, id_, max_bytes, Purpose.DETECT)


def errands_of(
    config: PracticeConfig,
    lease: Lease,
    source: Source,
    database: Database,
    repository: Repository,
    clock: Clock,
    digest_key: bytes,
    on_commit: Callable[[], None],
    vault: Vault = PLAIN,
) -> Errands:
    """The errands that a practice's configuration asks for."""
    group = config.patients.group
    roll = GroupRoll(source.client, config.base_url, group) if group is not None else None
    exports = ExportStore(database)
    exporter = None
    if config.bulk is not None:
        bulk = Bulk(source.client, clock)
        exporter = Exporter(config, lease, bulk, repository, exports, clock, digest_key, on_commit)
    attacher = Attacher(
        config,
        lease,
        _Binaries(source, clock),
        repository,
        AttachmentStore(database, vault),
        clock,
        digest_key,
        on_commit,
    )
    return Errands(PatientFinder(config, lease, PatientStore(database), roll, clock), attacher, exporter, exports)
