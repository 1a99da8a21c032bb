-- What of these practices is left alone: by operators, while it holds by the database's clock, and by the poller itself (no actor).
SELECT o.practice, o.resource_type, o.actor, o.since, o.until_at, o.reason
FROM poller.operator_pause AS o
WHERE o.practice = ANY (CAST(:practices AS text[])) AND (o.until_at IS NULL OR o.until_at > clock_timestamp())
UNION ALL
SELECT a.practice, a.resource_type, NULL, a.since, NULL, a.reason
FROM poller.pause AS a
WHERE a.practice = ANY (CAST(:practices AS text[]))
ORDER BY 1, 2, 3
