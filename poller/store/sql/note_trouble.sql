-- Another reason does not begin it anew.
INSERT INTO poller.trouble (practice, sink, reason) VALUES (:practice, :sink, :reason)
ON CONFLICT (practice, sink) DO UPDATE SET reason = EXCLUDED.reason
