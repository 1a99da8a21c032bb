-- Permits of a practice, in one atomic step, by the database's clock. A practice that is locked out gets none, and how long that lasts.
-- The row's lock is held while the clock is read, so blocks never overlap, whoever asks.
WITH granted AS (
  INSERT INTO poller.budget AS b (practice, next_at)
  VALUES (:practice, clock_timestamp() + CAST(:length AS interval))
  ON CONFLICT (practice) DO UPDATE
  SET next_at = greatest(b.next_at, clock_timestamp()) + CAST(:length AS interval)
  WHERE b.blocked_until IS NULL OR b.blocked_until <= clock_timestamp()
  RETURNING next_at - CAST(:length AS interval) AS starts_at
)
SELECT CAST(extract(epoch FROM starts_at - clock_timestamp()) AS double precision) AS delay, true AS granted
FROM granted
UNION ALL
SELECT CAST(extract(epoch FROM blocked_until - clock_timestamp()) AS double precision), false
FROM poller.budget
WHERE practice = :practice AND NOT EXISTS (SELECT FROM granted)
