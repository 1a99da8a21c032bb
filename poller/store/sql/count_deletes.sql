SELECT
  (SELECT count(*) FROM poller.snapshot AS s
   WHERE s.practice = :practice AND s.resource_type = :resource_type AND NOT s.deleted) AS live,
  (SELECT count(*) FROM poller.event AS e
   WHERE e.practice = :practice AND e.resource_type = :resource_type AND e.action = 'deleted' AND e.recorded_at > :since) AS lately
