-- How a block of an outside dump stands. Of a resource that is in the dump twice, the last line counts.
INSERT INTO pg_temp.verified (resource_type, id, outcome)
SELECT i.resource_type, i.id, i.outcome
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:outcomes AS text[])) AS i (resource_type, id, outcome)
ON CONFLICT (resource_type, id) DO UPDATE SET outcome = excluded.outcome
