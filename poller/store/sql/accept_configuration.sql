-- Keeps a configuration as the one in force; nothing is written where it is the one in force already.
INSERT INTO poller.configuration (digest, written, actor, reason)
SELECT :digest, :written, :actor, :reason
WHERE :digest IS DISTINCT FROM (SELECT digest FROM poller.configuration ORDER BY revision DESC LIMIT 1)
RETURNING revision
