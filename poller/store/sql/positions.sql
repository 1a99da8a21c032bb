-- Where a sink stands in each practice's log; a sink that never moved stands before the first event of all.
SELECT l.practice,
       coalesce(c.epoch, 0) AS epoch,
       coalesce(c.sequence, 0) AS sequence,
       c.routed,
       l.epoch AS head_epoch,
       l.head
FROM poller.practice_log AS l
LEFT JOIN poller.cursor AS c ON c.sink = :sink AND c.practice = l.practice
ORDER BY l.practice
