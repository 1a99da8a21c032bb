-- Grants the holds that are asked for, where the sink stands now, and ends those that were not kept alive. Run by whoever publishes for the
-- sink, when nothing of it is under way: what was granted is not delivered past this position until it ends.
WITH due AS (
  SELECT h.practice, h.replay, h.expires_at < clock_timestamp() AS lapsed, c.epoch, c.sequence
  FROM poller.hold AS h
  JOIN poller.cursor AS c ON c.sink = h.sink AND c.practice = h.practice
  WHERE h.sink = :sink AND (h.state = 'asked' OR (h.state = 'held' AND h.expires_at < clock_timestamp()))
  FOR UPDATE OF h
), noted AS (
  UPDATE poller.hold AS h
  SET state = CASE WHEN d.lapsed THEN 'lapsed' ELSE 'held' END,
      epoch = coalesce(h.epoch, d.epoch),
      sequence = coalesce(h.sequence, d.sequence)
  FROM due AS d
  WHERE h.sink = :sink AND h.practice = d.practice
), marked AS (
  UPDATE poller.cursor AS c
  SET held = CASE WHEN d.lapsed THEN NULL ELSE d.replay END
  FROM due AS d
  WHERE c.sink = :sink AND c.practice = d.practice
)
SELECT practice, replay, lapsed FROM due
