-- What is parked, in order.
SELECT practice, epoch, sequence, ordinal, resource_type, id, reason, released, parked_at
FROM poller.parked
WHERE sink = :sink AND (CAST(:practice AS text) IS NULL OR practice = :practice)
  AND (CAST(:resource_type AS text) IS NULL OR resource_type = :resource_type)
  AND (CAST(:id AS text) IS NULL OR id = :id)
ORDER BY practice, epoch, sequence, ordinal
LIMIT :limit
