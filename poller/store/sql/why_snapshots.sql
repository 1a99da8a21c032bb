-- What the snapshot that a sink starts from shows of resources: the version that the last event before its start has made, and whether the
-- snapshot has not come to it, in the order in which it goes out (read_snapshot): this database's, which a program's may differ from.
SELECT n.sink, s.resource_type, s.id, b.version, b.action,
       coalesce((s.resource_type, s.id) > (c.snapshot_type, c.snapshot_id), false) AS to_come
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS r (resource_type, id)
JOIN poller.snapshot AS s ON s.practice = :practice AND s.resource_type = r.resource_type AND s.id = r.id
JOIN poller.cursor AS c ON c.practice = s.practice
JOIN poller.sink AS n ON n.sink = c.sink AND n.start = 'snapshot'
CROSS JOIN LATERAL (
  SELECT e.version, e.action
  FROM poller.event AS e
  WHERE e.practice = s.practice AND e.resource_type = s.resource_type AND e.id = s.id
    AND CASE WHEN c.snapshot_type IS NULL THEN e.recorded_at <= n.started_at ELSE (e.epoch, e.sequence) <= (c.epoch, c.sequence) END
  ORDER BY e.version DESC
  LIMIT 1) AS b
