-- The latest events of a resource, the newest first.
SELECT e.epoch, e.sequence, e.resource_type, e.id, e.version, e.action, e.origin, e.recorded_at
FROM poller.event AS e
WHERE e.practice = :practice AND e.resource_type = :resource_type AND e.id = :id
ORDER BY e.version DESC, e.epoch DESC, e.sequence DESC
LIMIT :limit
