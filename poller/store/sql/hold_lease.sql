-- Fences a poller that was replaced: its epoch is no longer the lease's. The share lock keeps a takeover waiting until this commit.
SELECT epoch FROM poller.lease WHERE practice = :practice AND epoch = :epoch FOR SHARE
