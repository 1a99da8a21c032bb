SELECT h.version, h.action, h.recorded_at, e.origin, e.changed, e.status, e.epoch, e.sequence, e.event_id, e.last_modified, e.evidence,
       h.codec, h.body
FROM poller.history AS h
LEFT JOIN poller.event AS e
  ON e.practice = h.practice AND e.resource_type = h.resource_type AND e.id = h.id AND e.version = h.version AND e.recorded_at = h.recorded_at
WHERE h.practice = :practice AND h.resource_type = :resource_type AND h.id = :id
ORDER BY h.version
