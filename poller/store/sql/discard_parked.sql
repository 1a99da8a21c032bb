-- Gives parked events up, and books it.
WITH gone AS (
  DELETE FROM poller.parked
  WHERE practice = :practice AND sink = :sink
    AND (CAST(:resource_type AS text) IS NULL OR resource_type = :resource_type)
    AND (CAST(:id AS text) IS NULL OR id = :id)
  RETURNING ordinal
), counted AS (
  SELECT count(*) AS events, count(*) FILTER (WHERE ordinal = 0) AS of_log FROM gone
), booked AS (
  UPDATE poller.cursor SET discarded = discarded + counted.of_log FROM counted WHERE sink = :sink AND practice = :practice
)
SELECT events FROM counted
