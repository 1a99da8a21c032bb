UPDATE poller.token SET revoked_at = clock_timestamp() WHERE name = :name AND revoked_at IS NULL RETURNING name
