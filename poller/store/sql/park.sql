-- Parks events; the last statement but the commit of the step that passes them, so that the cursor's lock is held. What comes behind parked
-- events of its resource waits for them, and goes out with them if these are released already.
INSERT INTO poller.parked (practice, sink, epoch, sequence, ordinal, resource_type, id, reason, released, parked_at)
SELECT :practice, :sink, r.epoch, r.sequence, r.ordinal, r.resource_type, r.id, r.reason,
       CASE WHEN r.refused THEN r.released
            ELSE NOT EXISTS (
              SELECT FROM poller.parked AS p
              WHERE p.practice = :practice AND p.sink = :sink AND p.resource_type = r.resource_type AND p.id = r.id AND NOT p.released)
       END,
       clock_timestamp()
FROM unnest(
  CAST(:epochs AS bigint[]), CAST(:sequences AS bigint[]), CAST(:ordinals AS bigint[]), CAST(:types AS text[]), CAST(:ids AS text[]),
  CAST(:reasons AS text[]), CAST(:refused AS boolean[]), CAST(:released AS boolean[]))
  AS r (epoch, sequence, ordinal, resource_type, id, reason, refused, released)
