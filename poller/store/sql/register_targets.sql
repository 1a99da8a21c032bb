-- Makes targets known, and returns those that are new, have come back, or read more than before; what is unchanged is not touched.
-- A target is live from the start where the patient appeared after the practice's first enumeration and after the feed was set up, or where
-- another strategy has read the same whole: what differs from that happened since. Where several types are read, it is said of each (known).
-- One that returns after retirement keeps its state and catches up; one that reads more is read again soon.
INSERT INTO poller.target AS t (practice, target, resource_type, kind, category, patient, types, known, population, live, registered_at)
SELECT :practice, w.target, :resource_type, w.kind, w.category, w.patient, w.types,
       CASE WHEN w.types = '{}' THEN '{}' ELSE poller.known_types(:practice, w.types, w.patient) END,
       w.population,
       CASE
         WHEN w.kind IN ('everything', 'everything-window') THEN false
         WHEN w.kind = 'patient' THEN
           coalesce(p.live AND p.first_seen_at >= f.registered_at, false)
           OR poller.was_read_whole(:practice, :resource_type, w.category, w.patient)
         WHEN w.kind = 'patients' THEN
           -- one of the group is new in the practice, whatever else is still to be read; or all of them were read before
           EXISTS (
             SELECT FROM poller.patient AS m
             WHERE m.practice = :practice AND m.ordinal BETWEEN w.first AND w.last AND m.live AND m.first_seen_at >= f.registered_at)
           OR NOT EXISTS (
             SELECT FROM poller.patient AS m
             WHERE m.practice = :practice AND m.ordinal BETWEEN w.first AND w.last AND m.gone_at IS NULL
               AND NOT poller.was_read_whole(:practice, :resource_type, w.category, m.id))
         WHEN w.kind IN ('names', 'days', 'sweep') THEN
           -- the feed as a whole has been read by what stands or stood in this one's place
           EXISTS (
             SELECT FROM poller.target AS o
             WHERE o.practice = :practice AND o.resource_type = :resource_type AND o.kind = 'sweep' AND o.baseline_at IS NOT NULL)
           OR CAST(:whole AS boolean)
         ELSE false
       END,
       :now
FROM (
  SELECT r.target, r.kind, r.category, r.patient, r.population,
         CASE WHEN r.kind = 'patients' THEN split_part(r.patient, '.', 1)::bigint * split_part(r.patient, '.', 2)::bigint END AS first,
         CASE WHEN r.kind = 'patients' THEN split_part(r.patient, '.', 1)::bigint * (split_part(r.patient, '.', 2)::bigint + 1) - 1 END AS last,
         CASE WHEN r.types = '' THEN '{}' ELSE string_to_array(r.types, ',') END AS types
  FROM unnest(CAST(:targets AS text[]), CAST(:kinds AS text[]), CAST(:categories AS text[]), CAST(:patients AS text[]),
              CAST(:types AS text[]), CAST(:populations AS integer[]))
    AS r (target, kind, category, patient, types, population)) AS w
LEFT JOIN LATERAL (
  SELECT k.retired_at, k.types, k.population FROM poller.target AS k
  WHERE k.practice = :practice AND k.target = w.target
  LIMIT 1) AS e ON true
LEFT JOIN poller.feed AS f ON f.practice = :practice AND f.resource_type = :resource_type
LEFT JOIN poller.patient AS p ON p.practice = :practice AND p.id = w.patient
WHERE e.types IS NULL OR e.retired_at IS NOT NULL OR e.types <> w.types OR e.population <> w.population
ORDER BY w.target
ON CONFLICT (practice, target) DO UPDATE
SET retired_at = NULL,
    live = t.live OR (t.retired_at IS NOT NULL AND EXCLUDED.live),
    known = ARRAY(SELECT unnest(t.known) UNION SELECT unnest(EXCLUDED.known)),
    types = EXCLUDED.types,
    population = EXCLUDED.population,
    reread = t.reread OR EXCLUDED.population > t.population OR NOT EXCLUDED.types <@ t.types
RETURNING target
