-- When the targets that show patients were last read whole: all names, the search for Patient, the practitioners' days, an export. Not while
-- one of several never was.
SELECT CASE t.kind WHEN 'sweep' THEN 'search' ELSE t.kind END AS source,
       CASE WHEN bool_and(t.complete_began IS NOT NULL) THEN min(t.complete_began) END AS began,
       CASE WHEN bool_and(t.complete_began IS NOT NULL) THEN max(t.complete_ended) END AS ended,
       max(t.failure) AS failure
FROM poller.target AS t
WHERE t.practice = :practice AND t.retired_at IS NULL
  AND (t.kind IN ('names', 'days') OR t.resource_type = 'Patient' AND t.kind IN ('sweep', 'bulk'))
GROUP BY 1
ORDER BY 1
