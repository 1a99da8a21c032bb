-- A resource that its target no longer shows has moved, if another target in force shows it (a merge, another category): that one will
-- miss it when it goes. Nothing is returned if no other does.
WITH handed AS (
  DELETE FROM poller.member AS m
  USING poller.absence AS a
  WHERE a.practice = :practice AND a.resource_type = :resource_type AND a.id = :id
    AND m.practice = a.practice AND m.target = a.target AND m.resource_type = a.resource_type AND m.id = a.id
    AND EXISTS (
      SELECT FROM poller.member AS o
      JOIN poller.target AS t ON t.practice = o.practice AND t.target = o.target AND t.retired_at IS NULL
      WHERE o.practice = a.practice AND o.resource_type = a.resource_type AND o.id = a.id AND o.target <> a.target
        AND t.kind <> 'bulk' -- an export may never be made again
        AND (t.resource_type = o.resource_type OR o.resource_type = ANY (t.types)))
  RETURNING m.id
)
DELETE FROM poller.absence AS a
USING handed
WHERE a.practice = :practice AND a.resource_type = :resource_type AND a.id = handed.id
RETURNING a.id
