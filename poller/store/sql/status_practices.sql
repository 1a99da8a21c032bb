-- Of each practice: who looked after it last and when, whether that ends in errors, since when its lease is held, its patients, and what its budget has granted in the
-- last whole minute.
SELECT w.practice, h.at AS looked_at, h.failure, h.failed_at, n.host, n.pid, l.taken_at,
       (SELECT count(*) FROM poller.patient AS p WHERE p.practice = w.practice AND p.gone_at IS NULL) AS patients,
       CASE WHEN b.minute = date_trunc('minute', statement_timestamp()) THEN b.used_before
            WHEN b.minute = date_trunc('minute', statement_timestamp()) - interval '1 minute' THEN b.used
            ELSE 0 END AS used,
       coalesce(b.part, 1) AS part,
       CAST(extract(epoch FROM statement_timestamp() - b.cut_at) AS double precision) AS since_cut,
       CASE WHEN b.blocked_until > statement_timestamp() THEN b.blocked_until END AS blocked_until
FROM unnest(CAST(:practices AS text[])) AS w (practice)
LEFT JOIN poller.heartbeat AS h ON h.practice = w.practice
LEFT JOIN poller.engine AS n ON n.engine = h.engine
LEFT JOIN poller.lease AS l ON l.practice = w.practice
LEFT JOIN poller.budget AS b ON b.practice = w.practice
