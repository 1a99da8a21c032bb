SET LOCAL ROLE poller_owner;

-- When a poller last looked after a practice, and which: so that it shows, from here alone, when there is none any more. A lease's lock does
-- not tell that: of a machine that lost its power Postgres learns after hours. Apart from poller.lease, whose row each commit locks.
CREATE TABLE poller.heartbeat (
  practice text PRIMARY KEY,
  engine   integer,
  at       timestamptz NOT NULL
);

-- Permits granted in the last minute that a grant fell into, and in the one before it: how much of its limit a practice uses.
ALTER TABLE poller.budget
  ADD COLUMN minute      timestamptz,
  ADD COLUMN used        integer NOT NULL DEFAULT 0,
  ADD COLUMN used_before integer NOT NULL DEFAULT 0;

GRANT SELECT, INSERT, UPDATE ON poller.heartbeat TO poller_engine;
GRANT SELECT ON poller.heartbeat TO poller_reader, poller_status;
RESET ROLE;
