-- What is asked of an engine and not answered yet, in the order in which it was asked.
SELECT c.practice, c.control, c.action, c.resource_type, c.patient, c.actor, c.reason
FROM poller.control_answer AS a
JOIN poller.control AS c ON c.practice = a.practice AND c.control = a.control
WHERE a.engine = :engine AND a.state = 'waiting'
ORDER BY c.control
