-- Where each sink began and where it stands in a practice's log; one that never moved stands before the first event.
SELECT s.sink, s.start, s.started_at, coalesce(c.epoch, 0) AS epoch, coalesce(c.sequence, 0) AS sequence,
       coalesce(c.discarded, 0) AS discarded, c.snapshot_type IS NOT NULL AS in_snapshot
FROM poller.sink AS s
LEFT JOIN poller.cursor AS c ON c.sink = s.sink AND c.practice = :practice
ORDER BY s.sink
