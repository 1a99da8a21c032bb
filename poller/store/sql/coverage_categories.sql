-- Categories that stored resources of these types have, and how many have each.
SELECT s.resource_type, s.category, count(*) AS resources
FROM (
  SELECT k.resource_type, unnest(k.categories) AS category
  FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = ANY (CAST(:types AS text[])) AND NOT k.deleted) AS s
GROUP BY s.resource_type, s.category
ORDER BY s.resource_type, s.category
