-- How much of each type, and category where they are searched one by one, content reads have covered: what is read now, of that what never
-- was, and whether anything ever was. Windows and days show what changed, so they cover nothing; an export covers, but is no reading that is
-- owed; of who is gone nothing is owed. Of a reading of several types those count that it has read whole (known).
SELECT r.resource_type, r.category,
       coalesce(sum(r.targets) FILTER (WHERE r.in_force), 0)::bigint AS targets,
       coalesce(sum(r.targets) FILTER (WHERE r.in_force AND NOT r.covered), 0)::bigint AS never,
       coalesce(sum(r.failing) FILTER (WHERE r.in_force), 0)::bigint AS failing,
       min(r.oldest) FILTER (WHERE r.in_force AND r.covered) AS oldest,
       bool_or(r.covered) AS ever
FROM (
  SELECT u.resource_type, u.category, u.in_force, u.targets, u.failing, u.oldest,
         u.read AND (u.kind <> 'everything' OR u.resource_type = ANY (u.known)) AS covered
  FROM (
    SELECT unnest(CASE WHEN t.kind = 'everything' THEN t.types ELSE ARRAY[t.resource_type] END) AS resource_type, t.category, t.kind,
           t.known, t.in_force, t.read, t.targets, t.failing, t.oldest
    FROM (
      SELECT k.resource_type, k.category, k.kind, k.types, k.known, k.retired_at IS NULL AND k.kind <> 'bulk' AS in_force,
             k.complete_began IS NOT NULL AS read, count(*) AS targets, count(*) FILTER (WHERE k.failures > 0) AS failing,
             min(k.complete_began) AS oldest
      FROM poller.target AS k
      LEFT JOIN poller.patient AS p ON p.practice = k.practice AND p.id = k.patient AND p.gone_at IS NOT NULL
      WHERE k.practice = :practice AND k.kind IN ('sweep', 'patient', 'patients', 'names', 'everything', 'bulk') AND p.id IS NULL
      GROUP BY 1, 2, 3, 4, 5, 6, 7) AS t) AS u) AS r
GROUP BY r.resource_type, r.category
ORDER BY r.resource_type, r.category
