-- The events that made these versions, without bodies.
SELECT {event_columns},
       CAST(NULL AS smallint) AS codec, CAST(NULL AS bytea) AS body, CAST(NULL AS smallint) AS previous_codec, CAST(NULL AS bytea) AS previous_body
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:versions AS bigint[])) AS w (resource_type, id, version)
JOIN LATERAL (
  SELECT * FROM poller.event AS l
  WHERE l.practice = :practice AND l.resource_type = w.resource_type AND l.id = w.id AND l.version = w.version
  LIMIT 1) AS e ON true
