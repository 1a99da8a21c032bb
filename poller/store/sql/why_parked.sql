-- What is parked of all that a patient has, or of one resource of theirs, in order; looked for resource by resource, however much is parked.
SELECT n.sink, k.epoch, k.sequence, k.ordinal, s.resource_type, s.id, k.reason, k.released
FROM poller.snapshot AS s
CROSS JOIN poller.sink AS n
CROSS JOIN LATERAL (
  SELECT p.epoch, p.sequence, p.ordinal, p.reason, p.released FROM poller.parked AS p
  WHERE p.practice = s.practice AND p.sink = n.sink AND p.resource_type = s.resource_type AND p.id = s.id
  OFFSET 0) AS k
WHERE s.practice = :practice AND s.partition_key = :partition_key
  AND (CAST(:id AS text) IS NULL OR s.resource_type = :resource_type AND s.id = :id)
ORDER BY n.sink, k.epoch, k.sequence, k.ordinal
