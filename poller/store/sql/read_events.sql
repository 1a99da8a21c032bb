-- Events in log order after a position, as a relay or a replay selects them; bodies travel only for the payloads that carry them.
SELECT e.practice, e.epoch, e.sequence, e.event_id, e.resource_type, e.id, e.version, e.action, e.origin, e.changed, e.categories,
       e.status, e.partition_key, e.recorded_at, e.previous_read, e.last_modified,
       h.codec, h.body, p.codec AS previous_codec, p.body AS previous_body
FROM poller.event AS e
LEFT JOIN poller.history AS h
  ON :bodies AND h.practice = e.practice AND h.resource_type = e.resource_type AND h.id = e.id AND h.version = e.version
 AND h.recorded_at = e.recorded_at
LEFT JOIN LATERAL (
  SELECT b.codec, b.body FROM poller.history AS b
  WHERE :bodies AND e.action <> 'deleted' AND b.practice = e.practice AND b.resource_type = e.resource_type AND b.id = e.id
    AND b.version < e.version AND b.body IS NOT NULL
  ORDER BY b.version DESC LIMIT 1) AS p ON true
WHERE e.practice = :practice
  AND (e.epoch, e.sequence) > (:epoch, :sequence)
  AND (e.epoch, e.sequence) <= (:last_epoch, :last_sequence)
  AND (CAST(:resource_type AS text) IS NULL OR e.resource_type = :resource_type)
  AND (CAST(:partition_key AS text) IS NULL OR e.partition_key = :partition_key)
  AND (CAST(:since AS timestamptz) IS NULL OR e.recorded_at >= :since)
  AND (CAST(:until AS timestamptz) IS NULL OR e.recorded_at < :until)
ORDER BY e.epoch, e.sequence
LIMIT :limit
