UPDATE poller.snapshot AS s
SET codec = r.codec, body = r.body
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:codecs AS smallint[]), CAST(:bodies AS bytea[]))
  AS r (resource_type, id, codec, body)
WHERE s.practice = :practice AND s.resource_type = r.resource_type AND s.id = r.id
