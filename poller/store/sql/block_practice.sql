-- Lock-out: nothing is granted for so long from now. An earlier, longer one stays.
INSERT INTO poller.budget AS b (practice, next_at, blocked_until)
VALUES (:practice, clock_timestamp(), clock_timestamp() + CAST(:length AS interval))
ON CONFLICT (practice) DO UPDATE
SET blocked_until = greatest(b.blocked_until, clock_timestamp() + CAST(:length AS interval))
