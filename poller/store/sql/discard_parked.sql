-- Gives parked events up, and books it.
WITH gone AS (
  DELETE FROM poller.parked AS p
  USING unnest(CAST(:epochs AS bigint[]), CAST(:sequences AS bigint[]), CAST(:ordinals AS bigint[])) AS r (epoch, sequence, ordinal)
  WHERE p.practice = :practice AND p.sink = :sink AND (p.epoch, p.sequence, p.ordinal) = (r.epoch, r.sequence, r.ordinal)
  RETURNING p.ordinal
), counted AS (
  SELECT count(*) AS events, count(*) FILTER (WHERE ordinal = 0) AS of_log FROM gone
), booked AS (
  UPDATE poller.cursor SET discarded = discarded + counted.of_log FROM counted WHERE sink = :sink AND practice = :practice
)
SELECT events FROM counted
