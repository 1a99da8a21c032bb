SET LOCAL ROLE poller_owner;

-- What a probe has proven of a feed: its rungs, cheapest first; which of them failed since, and until when; why it cannot be read at all.
ALTER TABLE poller.feed
  ADD COLUMN offers        text[] NOT NULL DEFAULT '{}',
  ADD COLUMN bars          jsonb  NOT NULL DEFAULT '{}',
  ADD COLUMN advice        text,
  ADD COLUMN refused_since timestamptz;

-- For a patient who was merged into another: the other.
ALTER TABLE poller.event ADD COLUMN replaced_by text;

-- What a practice's server was found to allow, with the evidence; the latest is in force.
CREATE TABLE poller.probe (
  practice  text NOT NULL,
  probed_at timestamptz NOT NULL,
  report    jsonb NOT NULL,
  PRIMARY KEY (practice, probed_at)
);

-- A practice, or one feed of it, that is left alone for a while; resource_type '*' is the whole practice.
CREATE TABLE poller.pause (
  practice      text NOT NULL,
  resource_type text NOT NULL,
  since         timestamptz NOT NULL,
  reason        text NOT NULL,
  tries         integer NOT NULL DEFAULT 0,
  next_try_at   timestamptz,
  PRIMARY KEY (practice, resource_type)
);

-- Types that a target reads, or once read, where it reads several; which of them it, or what read them before it, has read whole; and of
-- how many patients it is, where it is of several.
ALTER TABLE poller.target
  ADD COLUMN types      text[] NOT NULL DEFAULT '{}',
  ADD COLUMN known      text[] NOT NULL DEFAULT '{}',
  ADD COLUMN population integer NOT NULL DEFAULT 0;
CREATE INDEX target_patient ON poller.target (practice, patient, resource_type) WHERE patient IS NOT NULL;
CREATE INDEX target_group ON poller.target (practice, resource_type, patient) WHERE kind = 'patients';

-- Who has named a patient: names, search, roster, group, days, reference, bulk.
CREATE TABLE poller.patient_source (
  practice      text NOT NULL,
  id            text NOT NULL,
  source        text NOT NULL,
  first_seen_at timestamptz NOT NULL,
  last_seen_at  timestamptz NOT NULL,
  PRIMARY KEY (practice, id, source)
);

-- Whom the names have shown already; what is not noted here is read one by one as well, and no later pass shows them as new.
INSERT INTO poller.patient_source (practice, id, source, first_seen_at, last_seen_at)
SELECT m.practice, m.id, 'names', p.first_seen_at, p.first_seen_at
FROM poller.member AS m
JOIN poller.patient AS p ON p.practice = m.practice AND p.id = m.id
WHERE m.target = 'Patient/-/names/-' AND m.resource_type = 'Patient';

-- Patients in the order in which they were found: several of them per call are always the same several.
ALTER TABLE poller.patient ADD COLUMN ordinal bigint;
UPDATE poller.patient AS p SET ordinal = o.ordinal
FROM (SELECT practice, id, row_number() OVER (PARTITION BY practice ORDER BY first_seen_at, id) - 1 AS ordinal FROM poller.patient) AS o
WHERE p.practice = o.practice AND p.id = o.id;
ALTER TABLE poller.patient ALTER COLUMN ordinal SET NOT NULL;
CREATE UNIQUE INDEX patient_ordinal ON poller.patient (practice, ordinal);

-- A complete enumeration of patients from one source: when it last began and ended.
CREATE TABLE poller.enumeration (
  practice text NOT NULL,
  source   text NOT NULL,
  began    timestamptz NOT NULL,
  ended    timestamptz NOT NULL,
  found    bigint NOT NULL,
  failure  text,
  PRIMARY KEY (practice, source)
);

-- When a bulk export last showed a member: its rows are too many to be held until its end.
ALTER TABLE poller.member ADD COLUMN seen_at timestamptz;

-- Bulk exports, so that a restart goes on with a job that the server has not finished.
CREATE TABLE poller.export (
  practice         text NOT NULL,
  job              uuid NOT NULL,
  group_id         text NOT NULL,
  types            text[] NOT NULL,
  since            timestamptz,
  purpose          text NOT NULL,
  state            text NOT NULL,
  poll_url         text,
  started_at       timestamptz NOT NULL,
  polled_at        timestamptz,
  next_poll_at     timestamptz,
  polls            integer NOT NULL DEFAULT 0,
  transaction_time timestamptz,
  manifest         jsonb,
  files_done       text[] NOT NULL DEFAULT '{}',
  rows             bigint NOT NULL DEFAULT 0,
  failure          text,
  ended_at         timestamptz,
  PRIMARY KEY (practice, job)
);

-- Attachments that are wanted, and what became of them. Written with the version that names them, so that none is forgotten.
CREATE TABLE poller.attachment (
  practice      text NOT NULL,
  id            text NOT NULL,
  owner_type    text NOT NULL,
  owner_id      text NOT NULL,
  owner_version bigint NOT NULL,
  partition_key text NOT NULL,
  state         text NOT NULL CHECK (state IN ('wanted', 'fetched', 'too-large', 'refused', 'dropped')),
  bytes         bigint,
  tries         integer NOT NULL DEFAULT 0,
  next_try_at   timestamptz NOT NULL,
  PRIMARY KEY (practice, id, owner_type, owner_id)
);
CREATE INDEX attachment_due ON poller.attachment (practice, state, next_try_at) WHERE state IN ('wanted', 'refused', 'dropped');
CREATE INDEX attachment_owner ON poller.attachment (practice, owner_type, owner_id);

-- Whether something has read all that a patient has of a type (and category) before, or all of the practice: what differs from that is news.
-- A group of patients is read whole together; its name is '<size>.<number>'.
CREATE FUNCTION poller.was_read_whole(p_practice text, p_type text, p_category text, p_patient text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  SELECT EXISTS (
    SELECT FROM poller.target AS t
    WHERE t.practice = p_practice AND t.target = p_type || '/-/sweep/-' AND t.baseline_at IS NOT NULL)
  OR EXISTS (
    SELECT FROM poller.target AS t
    WHERE t.practice = p_practice AND t.target = '*/-/everything/' || p_patient AND p_type = ANY (t.known))
  OR EXISTS (
    SELECT FROM poller.target AS t
    WHERE t.practice = p_practice AND t.patient = p_patient AND t.resource_type = p_type AND t.kind = 'patient'
      AND t.baseline_at IS NOT NULL AND (t.category IS NULL OR t.category = p_category))
  OR p_category IS NULL AND EXISTS (
    SELECT FROM poller.target AS t
    WHERE t.practice = p_practice AND t.patient = p_patient AND t.resource_type = p_type AND t.kind = 'patient'
    HAVING count(*) > 0 AND bool_and(t.baseline_at IS NOT NULL))
  OR EXISTS (SELECT FROM poller.target AS t WHERE t.practice = p_practice AND t.resource_type = p_type AND t.kind = 'patients')
    AND EXISTS (
    SELECT FROM poller.patient AS p
    JOIN generate_series(2, 100) AS size ON true -- what the configuration allows; to look at all targets instead is quadratic
    JOIN poller.target AS t ON t.practice = p.practice AND t.resource_type = p_type AND t.kind = 'patients'
      AND t.patient = size || '.' || p.ordinal / size
    WHERE p.practice = p_practice AND p.id = p_patient
    HAVING count(*) FILTER (WHERE p_category IS NULL OR t.category IS NULL OR t.category = p_category) > 0
      AND bool_and(t.baseline_at IS NOT NULL) FILTER (WHERE p_category IS NULL OR t.category IS NULL OR t.category = p_category))
  OR EXISTS (
    SELECT FROM poller.target AS t
    JOIN poller.patient_source AS s ON s.practice = t.practice AND s.id = p_patient AND s.source = 'bulk'
    WHERE t.practice = p_practice AND t.target = p_type || '/-/bulk/-' AND t.baseline_at IS NOT NULL
      AND s.first_seen_at <= t.baseline_at)
$$;
-- Which of these types of a patient were read whole before, or are news all of them, since the patient is new in the practice.
CREATE FUNCTION poller.known_types(p_practice text, p_types text[], p_patient text) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  SELECT coalesce(array_agg(o.type ORDER BY o.type), '{}')
  FROM unnest(p_types) AS o (type)
  WHERE poller.was_read_whole(p_practice, o.type, NULL, p_patient)
     OR EXISTS (
       SELECT FROM poller.patient AS p
       JOIN poller.feed AS f ON f.practice = p.practice AND f.resource_type = o.type
       WHERE p.practice = p_practice AND p.id = p_patient AND p.live AND p.first_seen_at >= f.registered_at)
$$;
REVOKE ALL ON FUNCTION poller.was_read_whole(text, text, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION poller.known_types(text, text[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION poller.was_read_whole(text, text, text, text), poller.known_types(text, text[], text) TO poller_engine;

GRANT SELECT, INSERT, UPDATE ON poller.export, poller.enumeration, poller.patient_source TO poller_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON poller.probe, poller.pause, poller.attachment TO poller_engine;
GRANT SELECT ON poller.probe, poller.pause, poller.export, poller.enumeration, poller.patient_source, poller.attachment TO poller_reader;
GRANT SELECT ON poller.probe, poller.pause, poller.enumeration TO poller_status;
GRANT SELECT (practice, job, types, since, purpose, state, started_at, polled_at, next_poll_at, polls, transaction_time, rows, failure, ended_at)
  ON poller.export TO poller_status;
GRANT SELECT (practice, owner_type, state, bytes, tries, next_try_at) ON poller.attachment TO poller_status;
RESET ROLE;
