-- Of each sink and practice that has events before it: when the first that it has not passed was recorded.
SELECT s.sink, l.practice, e.recorded_at
FROM poller.sink AS s
CROSS JOIN poller.practice_log AS l
LEFT JOIN poller.cursor AS c ON c.sink = s.sink AND c.practice = l.practice
CROSS JOIN LATERAL (
  SELECT v.recorded_at
  FROM poller.event AS v
  WHERE v.practice = l.practice AND (v.epoch, v.sequence) > (coalesce(c.epoch, 0), coalesce(c.sequence, 0))
  ORDER BY v.epoch, v.sequence
  LIMIT 1) AS e
WHERE l.practice = ANY (CAST(:practices AS text[])) AND (coalesce(c.epoch, 0), coalesce(c.sequence, 0)) < (l.epoch, l.head)
