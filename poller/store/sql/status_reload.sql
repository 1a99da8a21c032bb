-- The last time that pollers were asked to read their configuration again, and what each said.
SELECT c.asked_at, a.state, a.said
FROM poller.control AS c
JOIN poller.control_answer AS a ON a.practice = c.practice AND a.control = c.control
WHERE c.practice = '*' AND c.control = (
  SELECT max(m.control) FROM poller.control AS m WHERE m.practice = '*' AND m.action = 'reload')
ORDER BY a.engine
