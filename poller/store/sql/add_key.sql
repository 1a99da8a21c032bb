-- Nothing where another has made this one: of two that write first at once, one waits here for the other's commit.
INSERT INTO poller.practice_key (practice, key_id, wrapped, master) VALUES (:practice, :key_id, :wrapped, :master)
ON CONFLICT DO NOTHING
