-- Practices that an engine looks after, each with how long ago it last did, by the database's clock.
INSERT INTO poller.heartbeat (practice, engine, at)
SELECT b.practice, :engine, clock_timestamp() - b.age
FROM unnest(CAST(:practices AS text[]), CAST(:ages AS interval[])) AS b (practice, age)
ORDER BY b.practice
ON CONFLICT (practice) DO UPDATE SET engine = excluded.engine, at = excluded.at
