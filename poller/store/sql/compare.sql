-- Hop 5. Which of the resources read differ from the snapshot, which are new to this target, and of which noise rules hide something that
-- was not noted within a day; unchanged bodies never travel.
-- LATERAL with LIMIT: one look by the key for each resource, however many rows the planner believes the tables to have.
SELECT i.resource_type, i.id,
       s.digest IS DISTINCT FROM i.digest OR s.deleted OR s.rules_version <> i.rules AS differs,
       i.unfiltered IS NOT NULL AND s.unfiltered IS DISTINCT FROM i.unfiltered AS hides
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:digests AS bytea[]), CAST(:rules AS integer[]), CAST(:unfiltered AS bytea[]))
  AS i (resource_type, id, digest, rules, unfiltered)
LEFT JOIN LATERAL (
  SELECT k.digest, k.deleted, k.rules_version, k.unfiltered FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = i.resource_type AND k.id = i.id
  LIMIT 1) AS s ON true
LEFT JOIN LATERAL (
  SELECT k.id FROM poller.member AS k
  WHERE :members AND k.practice = :practice AND k.target = :target AND k.resource_type = i.resource_type AND k.id = i.id
  LIMIT 1) AS m ON true
WHERE s.digest IS DISTINCT FROM i.digest
   OR s.deleted
   OR s.rules_version <> i.rules
   OR (:members AND m.id IS NULL)
   OR (i.unfiltered IS NOT NULL AND s.unfiltered IS DISTINCT FROM i.unfiltered AND NOT EXISTS (
     SELECT FROM poller.hidden AS h
     WHERE h.practice = :practice AND h.resource_type = i.resource_type AND h.id = i.id
       AND (h.unfiltered = i.unfiltered OR h.last_at > CAST(:now AS timestamptz) - interval '1 day')))
