-- Only ever forwards. Nothing is returned if the cursor is there already or further: then another relay has moved it.
INSERT INTO poller.cursor AS c (sink, practice, epoch, sequence, routed, moved_at)
VALUES (:sink, :practice, :epoch, :sequence, :routed, clock_timestamp())
ON CONFLICT (sink, practice) DO UPDATE
SET epoch = EXCLUDED.epoch, sequence = EXCLUDED.sequence, routed = EXCLUDED.routed, moved_at = EXCLUDED.moved_at
WHERE (c.epoch, c.sequence) < (EXCLUDED.epoch, EXCLUDED.sequence)
RETURNING sequence
