-- Of rows that are locked, and so stay at their place. LATERAL with LIMIT as in compare.
UPDATE poller.snapshot AS s
SET codec = r.codec, body = r.body
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:codecs AS smallint[]), CAST(:bodies AS bytea[]))
  AS r (resource_type, id, codec, body)
CROSS JOIN LATERAL (
  SELECT k.ctid AS place FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = r.resource_type AND k.id = r.id
  LIMIT 1) AS locked
WHERE s.ctid = locked.place
