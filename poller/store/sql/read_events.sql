-- Events in log order after a position, as a relay or a replay selects them; bodies travel only for the payloads that carry them.
-- The page is cut before bodies are looked up, one by one by their key, so that a page costs the same however long the backlog.
-- With bodies, a page also ends after so many bytes of them, but never before its first event.
SELECT * FROM (
SELECT {event_columns},
       h.codec, h.body, p.codec AS previous_codec, p.body AS previous_body,
       coalesce(sum(coalesce(octet_length(h.body), 0) + coalesce(octet_length(p.body), 0)) OVER (
         ORDER BY e.epoch, e.sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
FROM (
  SELECT *
  FROM poller.event AS l
  WHERE {selected}
  ORDER BY l.epoch, l.sequence
  LIMIT :limit
) AS e
LEFT JOIN LATERAL (
  SELECT b.codec, b.body FROM poller.history AS b
  WHERE :bodies AND b.practice = e.practice AND b.resource_type = e.resource_type AND b.id = e.id AND b.version = e.version
    AND b.recorded_at = e.recorded_at
  LIMIT 1) AS h ON true
LEFT JOIN LATERAL (
  SELECT b.codec, b.body FROM poller.history AS b
  WHERE :bodies AND (e.action NOT IN ('created', 'deleted') OR e.action = 'deleted' AND :of_deleted)
    AND b.practice = e.practice AND b.resource_type = e.resource_type AND b.id = e.id
    AND b.version < e.version AND b.body IS NOT NULL
  ORDER BY b.version DESC
  LIMIT 1) AS p ON true
) AS page
WHERE NOT :bodies OR page.bytes_before < :bytes
ORDER BY page.epoch, page.sequence
