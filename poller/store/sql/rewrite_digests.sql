UPDATE poller.snapshot AS s
SET digest = r.digest, elements = CAST(r.elements AS jsonb), rules_version = :rules_version
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:digests AS bytea[]), CAST(:elements AS text[]))
  AS r (resource_type, id, digest, elements)
WHERE s.practice = :practice AND s.resource_type = r.resource_type AND s.id = r.id
