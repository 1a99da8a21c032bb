-- Resources of a practice as they were at a time, a page of them by their key; what history does not hold any more stands as it was only if
-- it has not changed since. A page also ends after so many bytes of bodies, but not before its first resource.
SELECT * FROM (
  SELECT s.resource_type, s.id, s.version AS latest, s.deleted, s.changed_at, s.first_seen_at, s.codec AS latest_codec,
         CASE WHEN h.version IS NULL THEN s.body END AS latest_body, h.version, h.action, h.recorded_at, h.codec, h.body,
         coalesce(sum(coalesce(octet_length(h.body), octet_length(s.body), 0)) OVER (
           ORDER BY s.resource_type, s.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
  FROM (
    SELECT * FROM poller.snapshot AS k
    WHERE k.practice = :practice
      AND (k.resource_type, k.id) > (:after_type, :after_id)
      AND (CAST(:resource_type AS text) IS NULL OR k.resource_type = :resource_type)
      AND (CAST(:partition_key AS text) IS NULL OR k.partition_key = :partition_key)
      AND k.first_seen_at <= :at
    ORDER BY k.resource_type, k.id
    LIMIT :limit
  ) AS s
  LEFT JOIN LATERAL (
    SELECT b.version, b.action, b.recorded_at, b.codec, b.body FROM poller.history AS b
    WHERE b.practice = s.practice AND b.resource_type = s.resource_type AND b.id = s.id AND b.recorded_at <= :at
    ORDER BY b.version DESC
    LIMIT 1) AS h ON true
) AS page
WHERE page.bytes_before < :bytes
ORDER BY page.resource_type, page.id
