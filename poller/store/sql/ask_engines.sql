-- Keeps what an operator asks, and asks it of the engines that live: of all, or of the one that is named.
WITH asked AS (
  INSERT INTO poller.control (practice, action, resource_type, patient, actor, reason, until_at)
  VALUES (:practice, :action, :resource_type, :patient, :actor, :reason, clock_timestamp() + CAST(:length AS interval))
  RETURNING practice, control, asked_at, until_at
), told AS (
  INSERT INTO poller.control_answer (practice, control, engine)
  SELECT a.practice, a.control, e.engine
  FROM asked AS a
  CROSS JOIN poller.engine AS e
  WHERE (CAST(:engine AS integer) IS NULL OR e.engine = :engine)
    AND EXISTS (
      SELECT FROM pg_locks AS l
      WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
        AND l.classid = CAST(hashtext('poller.engine') AS oid) AND l.objid = CAST(e.engine AS oid)
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
  RETURNING engine
)
SELECT a.control, a.asked_at, a.until_at, (SELECT count(*) FROM told) AS engines
FROM asked AS a
