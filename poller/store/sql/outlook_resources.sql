-- How many resources of each type a practice has.
SELECT s.resource_type, count(*) AS resources
FROM poller.snapshot AS s
WHERE s.practice = :practice AND NOT s.deleted
GROUP BY s.resource_type
ORDER BY s.resource_type
