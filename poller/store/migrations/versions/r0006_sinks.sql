SET LOCAL ROLE poller_owner;

-- Events that were in the log's earlier epochs, so that earlier + head is what was ever recorded.
ALTER TABLE poller.practice_log ADD COLUMN earlier bigint NOT NULL DEFAULT 0 CHECK (earlier >= 0);
UPDATE poller.practice_log AS l
SET earlier = (SELECT count(*) FROM poller.event AS e WHERE e.practice = l.practice AND e.epoch < l.epoch);

-- A sink that has begun: from where, once for all practices there were then. Those that come later are read from their first event.
CREATE TABLE poller.sink (
  sink       text PRIMARY KEY,
  start      text NOT NULL,
  started_at timestamptz NOT NULL
);
INSERT INTO poller.sink (sink, start, started_at) SELECT sink, 'beginning', min(moved_at) FROM poller.cursor GROUP BY sink;

-- The books: what became of the events that a sink has passed, moved with the cursor. And, while a snapshot goes out before the log,
-- the last resource it has passed (null: none is under way) and how many.
ALTER TABLE poller.cursor
  ADD COLUMN skipped       bigint NOT NULL DEFAULT 0,
  ADD COLUMN delivered     bigint NOT NULL DEFAULT 0,
  ADD COLUMN filtered      bigint NOT NULL DEFAULT 0,
  ADD COLUMN discarded     bigint NOT NULL DEFAULT 0,
  ADD COLUMN snapshot_type text,
  ADD COLUMN snapshot_id   text,
  ADD COLUMN ordinal       bigint NOT NULL DEFAULT 0,
  ADD COLUMN held          text;
-- What was passed before there were books counts as skipped.
UPDATE poller.cursor AS c
SET skipped = l.earlier + l.head - (
  SELECT count(*) FROM poller.event AS e WHERE e.practice = c.practice AND (e.epoch, e.sequence) > (c.epoch, c.sequence))
FROM poller.practice_log AS l WHERE l.practice = c.practice;

-- Events that left the stream: refused, or behind one of the same resource that was. Released ones are tried again, in order.
CREATE TABLE poller.parked (
  practice      text NOT NULL,
  sink          text NOT NULL,
  epoch         bigint NOT NULL,
  sequence      bigint NOT NULL,
  ordinal       bigint NOT NULL,
  resource_type text NOT NULL,
  id            text NOT NULL,
  reason        text NOT NULL,
  released      boolean NOT NULL,
  parked_at     timestamptz NOT NULL,
  PRIMARY KEY (practice, sink, epoch, sequence, ordinal)
);
CREATE INDEX parked_resource ON poller.parked (practice, sink, resource_type, id);
CREATE INDEX parked_released ON poller.parked (practice, sink, epoch, sequence, ordinal) WHERE released;

GRANT SELECT, INSERT ON poller.sink TO poller_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON poller.parked TO poller_relay;
-- For sinks that start from a snapshot.
GRANT SELECT ON poller.snapshot TO poller_relay;
-- Retention asks what is still owed to a sink.
GRANT SELECT ON poller.sink, poller.parked TO poller_engine;
GRANT SELECT ON poller.sink, poller.parked TO poller_reader;
-- Status sees no id, neither of what is parked nor of how far a snapshot is.
REVOKE SELECT ON poller.cursor FROM poller_status;
GRANT SELECT (sink, practice, epoch, sequence, routed, moved_at, skipped, delivered, filtered, discarded, snapshot_type, ordinal, held)
  ON poller.cursor TO poller_status;
GRANT SELECT ON poller.sink TO poller_status;
GRANT SELECT (practice, sink, epoch, sequence, ordinal, resource_type, reason, released, parked_at) ON poller.parked TO poller_status;
RESET ROLE;
