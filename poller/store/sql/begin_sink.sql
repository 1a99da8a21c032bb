-- A new sink takes its place in each practice's log, once: before the first event from a time on (null: of all), or behind the last one.
-- What lies before is skipped. With a snapshot it stands behind the last one, and the resources go out first.
WITH begun AS (
  INSERT INTO poller.sink (sink, start, started_at) VALUES (:sink, :start, clock_timestamp())
  ON CONFLICT (sink) DO NOTHING
  RETURNING sink
), placed AS (
  SELECT l.practice,
         l.earlier + l.head AS recorded,
         coalesce(f.epoch, l.epoch) AS epoch,
         coalesce(f.sequence - 1, l.head) AS sequence,
         CASE WHEN f.epoch IS NULL THEN 0
              WHEN f.epoch = l.epoch THEN l.head - f.sequence + 1
              ELSE (SELECT count(*) FROM poller.event AS e
                    WHERE e.practice = l.practice AND (e.epoch, e.sequence) >= (f.epoch, f.sequence)) END AS waiting
  FROM begun CROSS JOIN poller.practice_log AS l
  LEFT JOIN LATERAL (
    SELECT e.epoch, e.sequence
    FROM poller.event AS e
    WHERE :in_log AND e.practice = l.practice AND (CAST(:since AS timestamptz) IS NULL OR e.recorded_at >= :since)
    ORDER BY e.epoch, e.sequence
    LIMIT 1) AS f ON true
)
INSERT INTO poller.cursor (sink, practice, epoch, sequence, moved_at, skipped, snapshot_type, snapshot_id)
SELECT :sink, practice, epoch, sequence, clock_timestamp(), recorded - waiting,
       CASE WHEN :snapshot THEN '' END, CASE WHEN :snapshot THEN '' END
FROM placed
ON CONFLICT (sink, practice) DO NOTHING
