INSERT INTO poller.audit (practice, actor, action, scope, reason)
VALUES (:practice, :actor, :action, CAST(:scope AS jsonb), :reason)
