-- Where a sink stands in each practice's log; a sink that never moved stands before the first event of all. Asked at every turn, so no more
-- than a thousand parked events are counted.
SELECT l.practice,
       coalesce(c.epoch, 0) AS epoch,
       coalesce(c.sequence, 0) AS sequence,
       c.routed,
       l.epoch AS head_epoch,
       l.head,
       coalesce(c.ordinal, 0) AS ordinal,
       c.snapshot_type,
       c.snapshot_id,
       c.held,
       (SELECT count(*) FROM (
         SELECT FROM poller.parked AS p WHERE p.practice = l.practice AND p.sink = :sink LIMIT 1000) AS counted) AS parked,
       EXISTS (SELECT FROM poller.parked AS p WHERE p.practice = l.practice AND p.sink = :sink AND p.released) AS released,
       coalesce((coalesce(c.epoch, 0), coalesce(c.sequence, 0)) < (x.epoch, x.sequence), false) AS overtaken,
       EXISTS (SELECT FROM poller.parking AS w WHERE w.practice = l.practice AND w.sink = :sink AND w.met_at IS NULL) AS asked
FROM poller.practice_log AS l
LEFT JOIN poller.cursor AS c ON c.sink = :sink AND c.practice = l.practice
LEFT JOIN poller.expired AS x ON x.practice = l.practice
ORDER BY l.practice
