-- First versions. A row that another writer inserted meanwhile is not returned: its read overlapped with ours, so ours is left for another.
INSERT INTO poller.snapshot (
  practice, resource_type, id, version, deleted, digest, elements, rules_version, codec, body, last_modified, categories, status,
  partition_key, entered_in_error, replaced_by, read_began, read_ended, first_seen_at, changed_at, unfiltered)
SELECT :practice, r.resource_type, r.id, r.version, false, r.digest, CAST(r.elements AS json), r.rules, r.codec, r.body,
       r.last_modified, CAST(r.categories AS text[]), r.status, r.partition_key,
       r.entered_in_error, r.replaced_by, r.read_began, r.read_ended, :now, :now, r.unfiltered
FROM unnest(
  CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:digests AS bytea[]), CAST(:elements AS text[]),
  CAST(:codecs AS smallint[]), CAST(:bodies AS bytea[]), CAST(:last_modified AS timestamptz[]), CAST(:categories AS text[]),
  CAST(:statuses AS text[]), CAST(:partition_keys AS text[]), CAST(:entered_in_error AS boolean[]), CAST(:replaced_by AS text[]),
  CAST(:read_began AS timestamptz[]), CAST(:read_ended AS timestamptz[]), CAST(:rules AS integer[]), CAST(:unfiltered AS bytea[]))
  AS r (resource_type, id, version, digest, elements, codec, body, last_modified, categories, status, partition_key,
        entered_in_error, replaced_by, read_began, read_ended, rules, unfiltered)
ORDER BY r.resource_type, r.id
ON CONFLICT (practice, resource_type, id) DO NOTHING
RETURNING resource_type, id
