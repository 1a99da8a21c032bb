-- Lock a practice's budget, made if it is not there, and tell what 429s have left of its pace.
INSERT INTO poller.budget AS b (practice, told_at, starts_at, next_at)
SELECT :practice, c.now, c.now, c.now FROM (SELECT clock_timestamp() AS now OFFSET 0) AS c
ON CONFLICT (practice) DO UPDATE SET practice = b.practice
RETURNING b.part, CAST(extract(epoch FROM clock_timestamp() - b.cut_at) AS double precision) AS since_cut
