INSERT INTO poller.history (
  practice, resource_type, id, version, recorded_at, action, digest, rules_version, codec, body, read_began, read_ended)
SELECT :practice, r.resource_type, r.id, r.version, :now, r.action, r.digest, r.rules, r.codec, r.body, r.read_began, r.read_ended
FROM unnest(
  CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:actions AS text[]), CAST(:digests AS bytea[]),
  CAST(:rules AS integer[]), CAST(:codecs AS smallint[]), CAST(:bodies AS bytea[]), CAST(:read_began AS timestamptz[]), CAST(:read_ended AS timestamptz[]))
  AS r (resource_type, id, version, action, digest, rules, codec, body, read_began, read_ended)
