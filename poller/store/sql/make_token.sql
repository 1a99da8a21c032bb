INSERT INTO poller.token (name, digest, practices, made_by, expires_at)
VALUES (:name, :digest, CAST(:practices AS text[]), :made_by, CAST(:expires_at AS timestamptz))
