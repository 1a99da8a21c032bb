-- Keeps a configuration as the one in force for its name; nothing is written where it is the one in force already.
INSERT INTO poller.configuration (name, digest, written, actor, reason)
SELECT :name, :digest, :written, :actor, :reason
WHERE :digest IS DISTINCT FROM (SELECT digest FROM poller.configuration WHERE name = :name ORDER BY revision DESC LIMIT 1)
RETURNING revision
