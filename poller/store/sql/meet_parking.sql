-- Notes of what was to be parked, and the cursor has passed, whether it was: an operator may have asked while it went out.
UPDATE poller.parking AS w
SET met_at = clock_timestamp(),
    parked = EXISTS (
      SELECT FROM poller.parked AS p
      WHERE p.practice = w.practice AND p.sink = w.sink AND (p.epoch, p.sequence, p.ordinal) = (w.epoch, w.sequence, 0))
WHERE w.practice = :practice AND w.sink = :sink AND w.met_at IS NULL AND (w.epoch, w.sequence) <= (:epoch, :sequence)
RETURNING w.parked
