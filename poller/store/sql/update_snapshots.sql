-- Next versions of rows that are locked, and so stay at their place. The partition key stays what it was at first sight. LATERAL with LIMIT as
-- in compare.
UPDATE poller.snapshot AS s
SET version = r.version, deleted = false, digest = r.digest, elements = CAST(r.elements AS json), rules_version = r.rules, unfiltered = r.unfiltered,
    codec = r.codec, key_id = NULL, body = r.body, last_modified = r.last_modified,
    categories = CAST(r.categories AS text[]), status = r.status,
    entered_in_error = r.entered_in_error, replaced_by = r.replaced_by, read_began = r.read_began, read_ended = r.read_ended,
    changed_at = :now
FROM unnest(
  CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:digests AS bytea[]), CAST(:elements AS text[]),
  CAST(:codecs AS smallint[]), CAST(:bodies AS bytea[]), CAST(:last_modified AS timestamptz[]), CAST(:categories AS text[]),
  CAST(:statuses AS text[]), CAST(:entered_in_error AS boolean[]), CAST(:replaced_by AS text[]),
  CAST(:read_began AS timestamptz[]), CAST(:read_ended AS timestamptz[]), CAST(:rules AS integer[]), CAST(:unfiltered AS bytea[]))
  AS r (resource_type, id, version, digest, elements, codec, body, last_modified, categories, status, entered_in_error, replaced_by,
        read_began, read_ended, rules, unfiltered)
CROSS JOIN LATERAL (
  SELECT k.ctid AS place FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = r.resource_type AND k.id = r.id
  LIMIT 1) AS locked
WHERE s.ctid = locked.place
