SET LOCAL ROLE poller_owner;

-- What keeps a sink from going on, in one practice or ('*') in all, in the relay's words, from when it noticed until it goes on.
CREATE TABLE poller.trouble (
  practice text NOT NULL,
  sink     text NOT NULL,
  reason   text NOT NULL,
  since    timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (practice, sink)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON poller.trouble TO poller_relay;
GRANT SELECT ON poller.trouble TO poller_reader, poller_status;
RESET ROLE;
