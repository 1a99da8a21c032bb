-- The books of all sinks: what was recorded = skipped + delivered + filtered + discarded + parked + waiting, or something is wrong.
-- The counters move with the cursor; what waits is told from where the cursor stands; so neither can hide the other's mistake.
SELECT s.sink, l.practice, s.start, s.started_at,
       l.earlier + l.head AS recorded,
       coalesce(c.skipped, 0) AS skipped,
       coalesce(c.delivered, 0) AS delivered,
       coalesce(c.filtered, 0) AS filtered,
       coalesce(c.discarded, 0) AS discarded,
       coalesce(p.parked, 0) AS parked,
       coalesce(p.released, 0) AS released,
       CASE WHEN c.epoch = l.epoch THEN l.head - c.sequence
            ELSE l.head + (SELECT count(*) FROM poller.event AS e
                           WHERE e.practice = l.practice AND (e.epoch, e.sequence) > (coalesce(c.epoch, 0), coalesce(c.sequence, 0))
                             AND e.epoch < l.epoch) END AS waiting,
       coalesce(c.snapshot_type IS NOT NULL, false) AS in_snapshot,
       coalesce(c.ordinal, 0) AS ordinal,
       c.held,
       c.moved_at
FROM poller.sink AS s
CROSS JOIN poller.practice_log AS l
LEFT JOIN poller.cursor AS c ON c.sink = s.sink AND c.practice = l.practice
LEFT JOIN (
  SELECT k.sink, k.practice, count(*) FILTER (WHERE k.ordinal = 0) AS parked, count(*) FILTER (WHERE k.released) AS released
  FROM poller.parked AS k
  GROUP BY k.sink, k.practice) AS p ON p.sink = s.sink AND p.practice = l.practice
ORDER BY s.sink, l.practice
