-- What was seen is not missing, whatever was held against it; but a read older than the evidence says nothing against it.
-- Locked in key order, so that two batches that show the same never wait for each other in a ring.
DELETE FROM poller.absence AS a
USING (
  SELECT b.resource_type, b.id
  FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:began AS timestamptz[])) AS i (resource_type, id, began)
  JOIN poller.absence AS b
    ON b.practice = :practice AND b.resource_type = i.resource_type AND b.id = i.id AND b.pass_began < i.began
  ORDER BY b.resource_type, b.id
  FOR UPDATE OF b
) AS seen
WHERE a.practice = :practice AND a.resource_type = seen.resource_type AND a.id = seen.id
