-- Versions of a resource, the latest first, with their bodies: a page that also ends after so many bytes of them, but not before its first.
SELECT * FROM (
  SELECT h.version, h.action, h.recorded_at, h.codec, h.body, count(*) OVER () AS remaining,
         coalesce(sum(coalesce(octet_length(h.body), 0)) OVER (
           ORDER BY h.version DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
  FROM poller.history AS h
  WHERE h.practice = :practice AND h.resource_type = :resource_type AND h.id = :id AND h.version < :before
) AS page
WHERE page.bytes_before < :bytes
ORDER BY page.version DESC
LIMIT :limit
