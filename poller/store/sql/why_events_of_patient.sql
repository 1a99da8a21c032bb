-- The latest events of all that a patient has, the newest first.
SELECT e.epoch, e.sequence, e.resource_type, e.id, e.version, e.action, e.origin, e.recorded_at
FROM poller.event AS e
WHERE e.practice = :practice AND e.partition_key = :partition_key
ORDER BY e.recorded_at DESC, e.epoch DESC, e.sequence DESC
LIMIT :limit
