-- How each feed of these practices is read, or why it is not.
SELECT f.practice, f.resource_type, f.strategy, coalesce(f.reason, '') AS reason, f.advice, f.refused_since, f.retired_at,
       coalesce(a.held, 0) AS held
FROM poller.feed AS f
LEFT JOIN (
  SELECT x.practice, x.resource_type, count(*) AS held
  FROM poller.absence AS x
  WHERE x.practice = ANY (CAST(:practices AS text[])) AND x.state = 'held'
  GROUP BY x.practice, x.resource_type) AS a ON a.practice = f.practice AND a.resource_type = f.resource_type
WHERE f.practice = ANY (CAST(:practices AS text[]))
ORDER BY f.practice, f.resource_type
