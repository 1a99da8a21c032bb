-- Attachments to be fetched now, the latest named first, so that no backlog holds up what is new; each with all notes that name it. Where
-- the event of a note's version is a baseline's, or is not kept any more, the attachment is of the baseline as well.
SELECT a.id, a.owner_type, a.owner_id, a.owner_version, a.partition_key, a.tries, coalesce(e.origin, 'baseline') AS origin
FROM (
  SELECT DISTINCT d.id
  FROM (
    SELECT w.id
    FROM poller.attachment AS w
    WHERE w.practice = :practice AND w.state = :state AND w.next_try_at <= :now AND w.owner_type = ANY (CAST(:owner_types AS text[]))
    ORDER BY w.next_try_at DESC
    LIMIT :limit) AS d) AS i
JOIN poller.attachment AS a ON a.practice = :practice AND a.id = i.id
LEFT JOIN LATERAL (
  SELECT v.origin FROM poller.event AS v
  WHERE v.practice = :practice AND v.resource_type = a.owner_type AND v.id = a.owner_id AND v.version = a.owner_version
  LIMIT 1) AS e ON true
WHERE a.state IN ('wanted', 'refused') AND a.owner_type = ANY (CAST(:owner_types AS text[]))
ORDER BY a.id, a.owner_type, a.owner_id
