-- Parks events; the last statement but the commit of the step that passes them, so that the cursor's lock is held. What comes behind parked
-- events of its resource waits for them, parked before or now, and goes out with them if these are released already. What an operator
-- wanted parked says so.
INSERT INTO poller.parked (practice, sink, epoch, sequence, ordinal, resource_type, id, reason, released, parked_at)
SELECT :practice, :sink, r.epoch, r.sequence, r.ordinal, r.resource_type, r.id, coalesce(w.reason || ' (' || w.actor || ')', r.reason),
       CASE WHEN r.refused THEN r.released
            ELSE NOT r.waits AND NOT EXISTS (
              SELECT FROM poller.parked AS p
              WHERE p.practice = :practice AND p.sink = :sink AND p.resource_type = r.resource_type AND p.id = r.id AND NOT p.released)
       END,
       clock_timestamp()
FROM (
  SELECT u.*, bool_or(u.refused AND NOT u.released) OVER (PARTITION BY u.resource_type, u.id) AS waits
  FROM unnest(
    CAST(:epochs AS bigint[]), CAST(:sequences AS bigint[]), CAST(:ordinals AS bigint[]), CAST(:types AS text[]), CAST(:ids AS text[]),
    CAST(:reasons AS text[]), CAST(:refused AS boolean[]), CAST(:released AS boolean[]))
    AS u (epoch, sequence, ordinal, resource_type, id, reason, refused, released)
) AS r
LEFT JOIN poller.parking AS w
  ON w.practice = :practice AND w.sink = :sink AND w.epoch = r.epoch AND w.sequence = r.sequence AND r.ordinal = 0
