-- How many events a replay would take, by type and action.
SELECT l.resource_type, l.action, count(*) AS events
FROM poller.event AS l
WHERE {selected}
GROUP BY l.resource_type, l.action
ORDER BY l.resource_type, l.action
