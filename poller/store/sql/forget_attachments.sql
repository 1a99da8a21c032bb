-- Dropped attachments for which nothing is left to do: never fetched, or deleted since, or still named by another note.
DELETE FROM poller.attachment AS a
USING (
  SELECT d.id, d.owner_type, d.owner_id
  FROM poller.attachment AS d
  LEFT JOIN LATERAL (
    SELECT k.deleted FROM poller.snapshot AS k
    WHERE k.practice = d.practice AND k.resource_type = 'Binary' AND k.id = d.id
    LIMIT 1) AS s ON true
  WHERE d.practice = :practice AND d.state = 'dropped' AND d.next_try_at <= :now
    AND (coalesce(s.deleted, true)
      OR EXISTS (SELECT FROM poller.attachment AS o WHERE o.practice = d.practice AND o.id = d.id AND o.state <> 'dropped'))
  ORDER BY d.id, d.owner_type, d.owner_id
  FOR UPDATE OF d
) AS done
WHERE a.practice = :practice AND a.id = done.id AND a.owner_type = done.owner_type AND a.owner_id = done.owner_id
