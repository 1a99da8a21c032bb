-- What was seen is not missing, whatever was held against it.
DELETE FROM poller.absence AS a
USING unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS i (resource_type, id)
WHERE a.practice = :practice AND a.resource_type = i.resource_type AND a.id = i.id
