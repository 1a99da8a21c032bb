-- Patients as sources name them: new ones get the next ordinals in the order given and are returned; one who was gone comes back where the
-- source proves it; each source is kept, and touched once a day. Asked under the practice's lock for patients: of two that count on from
-- the same last ordinal, one would fail.
WITH given AS MATERIALIZED (
  SELECT i.id, i.source, min(i.place) AS place
  FROM unnest(CAST(:ids AS text[]), CAST(:sources AS text[])) WITH ORDINALITY AS i (id, source, place)
  GROUP BY i.id, i.source
), named AS MATERIALIZED (
  SELECT g.id, min(g.place) AS place, bool_or(g.source = ANY (CAST(:proving AS text[]))) AS proven
  FROM given AS g
  GROUP BY g.id
), compared AS MATERIALIZED (
  SELECT n.id, n.place, n.proven, p.id IS NOT NULL AS known, p.gone_at IS NOT NULL AS gone
  FROM named AS n
  LEFT JOIN LATERAL (
    SELECT k.id, k.gone_at FROM poller.patient AS k WHERE k.practice = :practice AND k.id = n.id LIMIT 1) AS p ON true
), added AS (
  INSERT INTO poller.patient (practice, id, live, first_seen_at, ordinal)
  SELECT :practice, c.id, :live, :now,
         (SELECT coalesce(max(k.ordinal), -1) FROM poller.patient AS k WHERE k.practice = :practice) + row_number() OVER (ORDER BY c.place)
  FROM compared AS c
  WHERE NOT c.known
  ORDER BY c.place
  RETURNING id, ordinal
), returned AS (
  UPDATE poller.patient AS p SET gone_at = NULL
  FROM compared AS c
  WHERE p.practice = :practice AND p.id = c.id AND c.proven AND c.gone
), named_by AS (
  INSERT INTO poller.patient_source (practice, id, source, first_seen_at, last_seen_at)
  SELECT :practice, g.id, g.source, :now, :now
  FROM given AS g
  ORDER BY g.id, g.source
  ON CONFLICT (practice, id, source) DO UPDATE SET last_seen_at = EXCLUDED.last_seen_at
  WHERE patient_source.last_seen_at < EXCLUDED.last_seen_at - interval '1 day'
)
SELECT a.id FROM added AS a ORDER BY a.ordinal
