-- Which events of the log, l, a replay or a relay takes: behind a place, up to another, and chosen by type, patient, time, or a list.
l.practice = :practice
  AND (l.epoch, l.sequence) > (:epoch, :sequence)
  AND (l.epoch, l.sequence) <= (:last_epoch, :last_sequence)
  AND (CAST(:resource_type AS text) IS NULL OR l.resource_type = :resource_type)
  AND (CAST(:partition_key AS text) IS NULL OR l.partition_key = :partition_key)
  AND (CAST(:since AS timestamptz) IS NULL OR l.recorded_at >= :since)
  AND (CAST(:until AS timestamptz) IS NULL OR l.recorded_at < :until)
  AND (NOT :listed OR l.event_id = ANY (CAST(:event_ids AS uuid[]))
       OR l.resource_type || '/' || l.id = ANY (CAST(:references AS text[])))
