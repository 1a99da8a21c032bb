-- How many events a replay would take, by type and action; places of a patient who was forgotten are empty.
SELECT l.resource_type, l.action, count(*) AS events
FROM poller.event AS l
WHERE {selected} AND l.id <> ''
GROUP BY l.resource_type, l.action
ORDER BY l.resource_type, l.action
