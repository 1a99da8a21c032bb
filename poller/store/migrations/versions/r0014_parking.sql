SET LOCAL ROLE poller_owner;

-- Events that an operator wants parked when a sink comes to them, and whether they were. Rows stay: they say who asked and why.
CREATE TABLE poller.parking (
  practice      text NOT NULL,
  sink          text NOT NULL,
  epoch         bigint NOT NULL,
  sequence      bigint NOT NULL,
  actor         text NOT NULL,
  reason        text NOT NULL,
  asked_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  met_at        timestamptz,
  parked        boolean,
  PRIMARY KEY (practice, sink, epoch, sequence)
);
CREATE INDEX parking_asked ON poller.parking (practice, sink, epoch, sequence) WHERE met_at IS NULL;

GRANT SELECT, INSERT, UPDATE (met_at, parked) ON poller.parking TO poller_relay;
-- Where a sink stands is asked with whatever role one has.
GRANT SELECT ON poller.parking TO poller_engine, poller_reader;
RESET ROLE;
