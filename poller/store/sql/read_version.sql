-- One version of a resource, by its number or as it was at a time (else the latest), beside what the snapshot says: retention may have taken
-- the version's row from history, and then it is known here only if it still stands.
SELECT s.version AS latest, s.deleted, s.changed_at, s.first_seen_at, s.codec AS latest_codec, s.body AS latest_body,
       h.version, h.action, h.recorded_at, h.codec, h.body
FROM poller.snapshot AS s
LEFT JOIN LATERAL (
  SELECT b.version, b.action, b.recorded_at, b.codec, b.body FROM poller.history AS b
  WHERE b.practice = s.practice AND b.resource_type = s.resource_type AND b.id = s.id
    AND (CAST(:version AS bigint) IS NULL OR b.version = :version)
    AND (CAST(:at AS timestamptz) IS NULL OR b.recorded_at <= :at)
  ORDER BY b.version DESC
  LIMIT 1) AS h ON true
WHERE s.practice = :practice AND s.resource_type = :resource_type AND s.id = :id
