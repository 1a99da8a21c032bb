-- By what configurations of a name engines run that live now, and since when. Without a name: of every living engine, also one that has not
-- said by which.
SELECT DISTINCT ON (e.engine) e.host, e.pid, c.written, e.started_at
FROM poller.engine AS e
JOIN pg_locks AS l ON l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
  AND l.classid = CAST(hashtext('poller.engine') AS oid) AND l.objid = CAST(e.engine AS oid)
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
LEFT JOIN poller.configuration AS c ON c.revision = e.revision
WHERE c.name = :name OR CAST(:name AS text) IS NULL
ORDER BY e.engine
