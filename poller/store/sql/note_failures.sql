-- Practices whose reading ended in an error, with its code, or null for those of which a pass has ended well.
INSERT INTO poller.heartbeat (practice, engine, at, failure, failed_at)
SELECT f.practice, :engine, clock_timestamp(), f.failure, CASE WHEN f.failure IS NOT NULL THEN clock_timestamp() END
FROM unnest(CAST(:practices AS text[]), CAST(:failures AS text[])) AS f (practice, failure)
ORDER BY f.practice
ON CONFLICT (practice) DO UPDATE
SET failure = excluded.failure,
    failed_at = CASE WHEN excluded.failure IS NOT NULL THEN coalesce(heartbeat.failed_at, excluded.failed_at) END
