SELECT h.version, h.action, h.recorded_at, e.origin, e.changed, e.status, e.epoch, e.sequence, e.event_id, e.last_modified, e.evidence,
       h.codec, h.body, coalesce(r.noise, '{}') AS noise, n.paths AS hidden_since, n.last_at AS hidden_at
FROM poller.history AS h
LEFT JOIN poller.event AS e
  ON e.practice = h.practice AND e.resource_type = h.resource_type AND e.id = h.id AND e.version = h.version AND e.recorded_at = h.recorded_at
LEFT JOIN poller.rules AS r ON r.version = h.rules_version
LEFT JOIN poller.hidden AS n
  ON n.practice = h.practice AND n.resource_type = h.resource_type AND n.id = h.id AND n.version = h.version
WHERE h.practice = :practice AND h.resource_type = :resource_type AND h.id = :id
ORDER BY h.version
