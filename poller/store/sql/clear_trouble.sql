-- Of one practice, or of all.
DELETE FROM poller.trouble WHERE sink = :sink AND (CAST(:practice AS text) IS NULL OR practice = :practice)
