-- How many resources are stored of a patient, by type; deleted ones apart.
SELECT s.resource_type, count(*) FILTER (WHERE NOT s.deleted) AS stored, count(*) FILTER (WHERE s.deleted) AS deleted,
       max(s.changed_at) AS changed_at
FROM poller.snapshot AS s
WHERE s.practice = :practice AND s.partition_key = :partition_key
GROUP BY s.resource_type
ORDER BY s.resource_type
