-- At a start: what was too large by a former limit and is not by this one, and attachments of notes that were deleted while none were fetched.
UPDATE poller.attachment AS a
SET state = CASE WHEN s.deleted THEN 'dropped' ELSE 'wanted' END, tries = 0, next_try_at = :now
FROM poller.snapshot AS s
WHERE a.practice = :practice AND a.owner_type = :resource_type
  AND s.practice = a.practice AND s.resource_type = a.owner_type AND s.id = a.owner_id
  AND (s.deleted AND a.state <> 'dropped' OR NOT s.deleted AND a.state = 'too-large' AND a.bytes <= :most_bytes)
