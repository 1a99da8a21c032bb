-- Nothing is returned while another replay holds the sink in this practice, or asks for it.
INSERT INTO poller.hold AS h (practice, sink, replay, state, expires_at)
VALUES (:practice, :sink, :replay, 'asked', clock_timestamp() + :length)
ON CONFLICT (practice, sink) DO UPDATE
SET replay = EXCLUDED.replay, state = 'asked', asked_at = clock_timestamp(), expires_at = EXCLUDED.expires_at, epoch = NULL, sequence = NULL
WHERE h.state = 'lapsed' OR (h.state = 'asked' AND h.expires_at < clock_timestamp())
RETURNING replay
