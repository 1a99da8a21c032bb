-- Bodies of a practice that are not sealed, in the order in which writers lock them.
SELECT resource_type, id, codec, body
FROM poller.snapshot
WHERE practice = :practice AND (resource_type, id) > (:after_type, :after_id) AND codec <> :sealed
ORDER BY resource_type, id
LIMIT :limit
FOR UPDATE
