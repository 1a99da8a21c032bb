-- What engines have said to one request, and whether each of them still lives.
SELECT a.engine, e.host, e.pid, a.state, a.said,
       EXISTS (
         SELECT FROM pg_locks AS l
         WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
           AND l.classid = CAST(hashtext('poller.engine') AS oid) AND l.objid = CAST(a.engine AS oid)
           AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())) AS lives
FROM poller.control_answer AS a
LEFT JOIN poller.engine AS e ON e.engine = a.engine
WHERE a.practice = :practice AND a.control = :control
ORDER BY a.engine
