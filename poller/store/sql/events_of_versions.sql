-- The events that made these versions, without bodies.
SELECT e.practice, e.epoch, e.sequence, e.event_id, e.resource_type, e.id, e.version, e.action, e.origin, e.changed, e.categories,
       e.status, e.partition_key, e.recorded_at, e.previous_read, e.last_modified, e.replaced_by, e.evidence,
       CAST(NULL AS smallint) AS codec, CAST(NULL AS bytea) AS body, CAST(NULL AS smallint) AS previous_codec, CAST(NULL AS bytea) AS previous_body
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:versions AS bigint[])) AS w (resource_type, id, version)
JOIN LATERAL (
  SELECT * FROM poller.event AS l
  WHERE l.practice = :practice AND l.resource_type = w.resource_type AND l.id = w.id AND l.version = w.version
  LIMIT 1) AS e ON true
