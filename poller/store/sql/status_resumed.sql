-- When operators' pauses of these practices and their feeds last ended, by their word or by themselves: before that nothing was owed.
SELECT r.practice, r.resource_type, max(r.at) AS at
FROM (
  SELECT c.practice, c.resource_type, c.asked_at AS at
  FROM poller.control AS c
  WHERE c.practice = ANY (CAST(:practices AS text[])) AND c.action = 'resume'
  UNION ALL
  SELECT o.practice, o.resource_type, o.until_at
  FROM poller.operator_pause AS o
  WHERE o.practice = ANY (CAST(:practices AS text[])) AND o.until_at <= clock_timestamp()) AS r
GROUP BY r.practice, r.resource_type
