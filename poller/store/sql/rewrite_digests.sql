-- Under other rules than before, of rows that are locked, and so stay at their place. LATERAL with LIMIT as in compare.
-- The body is another only where what is shown now was the same under the rules before, or where something of it is to be dropped.
UPDATE poller.snapshot AS s
SET digest = r.digest, elements = CAST(r.elements AS json), rules_version = r.rules, unfiltered = r.unfiltered,
    codec = coalesce(r.codec, s.codec), body = coalesce(r.body, s.body)
FROM unnest(
  CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:digests AS bytea[]), CAST(:elements AS text[]), CAST(:rules AS integer[]),
  CAST(:unfiltered AS bytea[]), CAST(:codecs AS smallint[]), CAST(:bodies AS bytea[]))
  AS r (resource_type, id, digest, elements, rules, unfiltered, codec, body)
CROSS JOIN LATERAL (
  SELECT k.ctid AS place FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = r.resource_type AND k.id = r.id
  LIMIT 1) AS locked
WHERE s.ctid = locked.place
