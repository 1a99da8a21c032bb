-- How many patients are known, how many are gone, and of whom nothing was ever read: no Patient resource, and no whole read of theirs, alone
-- or in a group ('<size>.<number>').
WITH read AS (
  SELECT s.id FROM poller.snapshot AS s WHERE s.practice = :practice AND s.resource_type = 'Patient'
  UNION
  SELECT t.patient FROM poller.target AS t
  WHERE t.practice = :practice AND t.patient IS NOT NULL AND t.kind IN ('patient', 'everything') AND t.complete_began IS NOT NULL
  UNION
  SELECT p.id
  FROM (
    SELECT split_part(t.patient, '.', 1)::bigint AS size, split_part(t.patient, '.', 2)::bigint AS number
    FROM poller.target AS t
    WHERE t.practice = :practice AND t.kind = 'patients' AND t.complete_began IS NOT NULL
    GROUP BY 1, 2) AS g
  JOIN poller.patient AS p ON p.practice = :practice AND p.ordinal >= g.number * g.size AND p.ordinal < (g.number + 1) * g.size
)
SELECT count(*) FILTER (WHERE p.gone_at IS NULL) AS known,
       count(*) FILTER (WHERE p.gone_at IS NOT NULL) AS gone,
       count(*) FILTER (WHERE p.gone_at IS NULL AND r.id IS NULL) AS unread
FROM poller.patient AS p
LEFT JOIN read AS r ON r.id = p.id
WHERE p.practice = :practice
