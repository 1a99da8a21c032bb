-- Rows digested under other rules than ours, with the body to digest again.
SELECT s.resource_type, s.id, s.codec, s.body
FROM poller.snapshot AS s
JOIN unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS i (resource_type, id)
  ON s.resource_type = i.resource_type AND s.id = i.id
WHERE s.practice = :practice AND s.rules_version <> :rules_version AND s.body IS NOT NULL
