-- The last time that pollers of a name were asked to read their configuration again, and what each said. One that has only just begun, so
-- that it is not known yet what it runs by, may be of that name.
SELECT c.asked_at, a.state, a.said
FROM poller.control AS c
JOIN poller.control_answer AS a ON a.practice = c.practice AND a.control = c.control
JOIN poller.engine AS e ON e.engine = a.engine
LEFT JOIN poller.configuration AS r ON r.revision = e.revision
WHERE c.practice = '*' AND coalesce(r.name, :name) = :name AND c.control = (
  SELECT m.control
  FROM poller.control AS m
  WHERE m.practice = '*' AND m.action = 'reload' AND EXISTS (
    SELECT
    FROM poller.control_answer AS b
    JOIN poller.engine AS f ON f.engine = b.engine
    LEFT JOIN poller.configuration AS s ON s.revision = f.revision
    WHERE b.practice = m.practice AND b.control = m.control AND coalesce(s.name, :name) = :name)
  ORDER BY m.control DESC
  LIMIT 1)
ORDER BY a.engine
