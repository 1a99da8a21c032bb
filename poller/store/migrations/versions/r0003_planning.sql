SET LOCAL ROLE poller_owner;

-- Visits that are ahead or not long ago, by the Encounter that tells of each; written with the Encounter's version, so that none is forgotten.
CREATE TABLE poller.visit (
  practice text NOT NULL,
  id       text NOT NULL,
  patient  text NOT NULL,
  start_at timestamptz NOT NULL,
  kind     text NOT NULL,
  status   text NOT NULL,
  PRIMARY KEY (practice, id)
);
CREATE INDEX visit_start ON poller.visit (practice, start_at);

-- What a practice's planner has learned, so that a restart or another process goes on from there.
CREATE TABLE poller.planning (
  practice text PRIMARY KEY,
  state    jsonb NOT NULL,
  saved_at timestamptz NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON poller.visit TO poller_engine;
GRANT SELECT, INSERT, UPDATE ON poller.planning TO poller_engine;
GRANT SELECT ON poller.visit, poller.planning TO poller_reader;
RESET ROLE;
