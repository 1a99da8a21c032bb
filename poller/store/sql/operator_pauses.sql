-- The pauses of operators that are in force by the database's clock, of one practice or of all.
SELECT practice, resource_type, since, until_at, actor, reason
FROM poller.operator_pause
WHERE (until_at IS NULL OR until_at > clock_timestamp()) AND (CAST(:practice AS text) IS NULL OR practice = :practice)
ORDER BY practice, resource_type
