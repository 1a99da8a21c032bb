-- By what configurations of a name engines run that live now.
SELECT DISTINCT ON (e.engine) e.host, e.pid, c.written
FROM poller.engine AS e
JOIN poller.configuration AS c ON c.revision = e.revision
JOIN pg_locks AS l ON l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
  AND l.classid = CAST(hashtext('poller.engine') AS oid) AND l.objid = CAST(e.engine AS oid)
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
WHERE c.name = :name
ORDER BY e.engine
