UPDATE poller.replay SET state = 'cancelled', moved_at = clock_timestamp()
WHERE practice = :practice AND replay = :replay AND state = 'running'
RETURNING replay
