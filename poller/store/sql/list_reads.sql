-- The latest reads of a practice, by the key's order.
SELECT practice, token, asked, resource_type, id, version, status, read_at
FROM poller.read_audit
WHERE practice = :practice AND (CAST(:token AS text) IS NULL OR token = :token)
ORDER BY number DESC
LIMIT :limit
