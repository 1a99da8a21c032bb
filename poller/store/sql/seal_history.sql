UPDATE poller.history AS h
SET codec = r.codec, body = r.body
FROM unnest(
  CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:times AS timestamptz[]), CAST(:codecs AS smallint[]),
  CAST(:bodies AS bytea[]))
  AS r (resource_type, id, version, recorded_at, codec, body)
WHERE h.practice = :practice AND h.resource_type = r.resource_type AND h.id = r.id AND h.version = r.version
  AND h.recorded_at = r.recorded_at
