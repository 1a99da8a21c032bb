-- What is stored of a resource, without its body, and whether it is missing at its source.
SELECT s.version, s.deleted, s.partition_key, s.categories, s.first_seen_at, s.changed_at,
       a.state AS absence, a.reason AS absent_why, a.first_missing_at AS missing_since
FROM poller.snapshot AS s
LEFT JOIN poller.absence AS a ON a.practice = s.practice AND a.resource_type = s.resource_type AND a.id = s.id
WHERE s.practice = :practice AND s.resource_type = :resource_type AND s.id = :id
