-- How many patients each source has named, and how many of them it alone; who is gone is left out. No source: known from before they were kept.
SELECT o.source, count(*) AS patients, count(*) FILTER (WHERE o.sources = 1) AS alone
FROM (
  SELECT coalesce(s.source, '') AS source, count(*) OVER (PARTITION BY p.id) AS sources
  FROM poller.patient AS p
  LEFT JOIN poller.patient_source AS s ON s.practice = p.practice AND s.id = p.id
  WHERE p.practice = :practice AND p.gone_at IS NULL) AS o
GROUP BY o.source
ORDER BY o.source
