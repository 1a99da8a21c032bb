-- What does not stand equal, behind a resource in the order of type and id.
SELECT v.resource_type, v.id, v.outcome
FROM pg_temp.verified AS v
WHERE v.outcome <> 'equal' AND (v.resource_type, v.id) > (:after_type, :after_id)
ORDER BY v.resource_type, v.id
LIMIT :limit
