SELECT name, practices, made_at, made_by, expires_at, revoked_at,
       revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp()) AS is_valid
FROM poller.token
WHERE CAST(:digest AS bytea) IS NULL OR digest = :digest
ORDER BY name
