-- How many events a replay would take, by type and action.
SELECT l.resource_type, l.action, count(*) AS events
FROM poller.event AS l
WHERE l.practice = :practice
  AND (l.epoch, l.sequence) > (:epoch, :sequence)
  AND (l.epoch, l.sequence) <= (:last_epoch, :last_sequence)
  AND (CAST(:resource_type AS text) IS NULL OR l.resource_type = :resource_type)
  AND (CAST(:partition_key AS text) IS NULL OR l.partition_key = :partition_key)
  AND (CAST(:since AS timestamptz) IS NULL OR l.recorded_at >= :since)
  AND (CAST(:until AS timestamptz) IS NULL OR l.recorded_at < :until)
  AND (NOT :listed OR l.event_id = ANY (CAST(:event_ids AS uuid[]))
       OR l.resource_type || '/' || l.id = ANY (CAST(:references AS text[])))
GROUP BY l.resource_type, l.action
ORDER BY l.resource_type, l.action
