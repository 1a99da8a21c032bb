SET LOCAL ROLE poller_owner;

-- The data keys of practices, each wrapped by a master key, which never stands here. The one with the highest number seals what is written
-- now; bodies name theirs in their first two bytes. Without its row what a key has sealed is lost for good.
CREATE TABLE poller.practice_key (
  practice   text NOT NULL,
  key_id     smallint NOT NULL CHECK (key_id > 0),
  wrapped    bytea NOT NULL,
  master     text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (practice, key_id)
);

-- Whoever reads bodies must see it. A key is made by whoever writes, and wrapped anew under another master key, and is never another one.
GRANT SELECT ON poller.practice_key TO poller_engine, poller_relay, poller_api, poller_reader;
GRANT INSERT, UPDATE (wrapped, master) ON poller.practice_key TO poller_engine;
RESET ROLE;
