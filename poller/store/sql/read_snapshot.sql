-- The resources of a practice as they were at an event of its log, behind a resource in the order of type and id, or one of them. One that
-- has not changed since is as the snapshot has it; of one that has, the version is the one before the first event behind that place.
SELECT s.resource_type, s.id, v.version, v.digest, v.codec, v.body, v.changed_at,
       s.partition_key, w.categories, w.status, w.last_modified
FROM poller.snapshot AS s
LEFT JOIN LATERAL (
  SELECT e.version
  FROM poller.event AS e
  WHERE e.practice = s.practice AND e.resource_type = s.resource_type AND e.id = s.id AND (e.epoch, e.sequence) > (:epoch, :sequence)
  ORDER BY e.version
  LIMIT 1) AS later ON true
JOIN LATERAL (
  SELECT s.version, s.digest, s.codec, s.body, s.changed_at
  WHERE later.version IS NULL AND NOT s.deleted
  UNION ALL
  SELECT * FROM (
    SELECT h.version, h.digest, h.codec, h.body, h.recorded_at
    FROM poller.history AS h
    WHERE later.version IS NOT NULL AND h.practice = s.practice AND h.resource_type = s.resource_type AND h.id = s.id
      AND h.version < later.version
    ORDER BY h.version DESC
    LIMIT 1) AS before
  WHERE before.body IS NOT NULL
) AS v ON true
LEFT JOIN LATERAL (
  SELECT s.categories, s.status, s.last_modified
  WHERE later.version IS NULL
  UNION ALL
  SELECT e.categories, e.status, e.last_modified
  FROM poller.event AS e
  WHERE later.version IS NOT NULL AND e.practice = s.practice AND e.resource_type = s.resource_type AND e.id = s.id
    AND e.version = v.version
) AS w ON true
WHERE s.practice = :practice
  AND (s.resource_type, s.id) > (:after_type, :after_id)
  AND (CAST(:only_type AS text) IS NULL OR s.resource_type = :only_type)
  AND (CAST(:only_id AS text) IS NULL OR s.id = :only_id)
ORDER BY s.resource_type, s.id
LIMIT :limit
