-- The append. Taking the head locks the practice's log until commit, so numbers are gapless and in commit order; hence last.
WITH taken AS (
  UPDATE poller.practice_log
  SET head = head + cardinality(CAST(:event_ids AS uuid[]))
  WHERE practice = :practice
  RETURNING epoch, head - cardinality(CAST(:event_ids AS uuid[])) AS before
)
INSERT INTO poller.event (
  practice, epoch, sequence, recorded_at, event_id, resource_type, id, version, action, origin, digest, changed, categories, status,
  partition_key, previous_read, last_modified, evidence, replaced_by)
SELECT :practice, taken.epoch, taken.before + r.ordinal, :now, r.event_id, r.resource_type, r.id, r.version, r.action, r.origin, r.digest,
       CAST(r.changed AS text[]),
       CAST(r.categories AS text[]),
       r.status, r.partition_key, :previous_read, r.last_modified, :evidence, r.replaced_by
FROM taken, unnest(
  CAST(:event_ids AS uuid[]), CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:actions AS text[]),
  CAST(:origins AS text[]), CAST(:digests AS bytea[]), CAST(:changed AS text[]), CAST(:categories AS text[]), CAST(:statuses AS text[]),
  CAST(:partition_keys AS text[]), CAST(:last_modified AS timestamptz[]), CAST(:replaced_by AS text[]))
  WITH ORDINALITY AS r (event_id, resource_type, id, version, action, origin, digest, changed, categories, status, partition_key, last_modified,
                        replaced_by, ordinal)
RETURNING epoch, sequence
