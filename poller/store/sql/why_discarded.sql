-- By whom, when and why events were given up, with all that were given up at once; as the audit of `sinks discard` has it.
SELECT a.at, a.actor, a.reason, a.scope ->> 'sink' AS sink, a.scope -> 'events' AS events
FROM poller.audit AS a
WHERE a.practice = :practice AND a.at >= :since AND a.action = 'sinks discard' AND a.scope -> 'events' ?| CAST(:events AS text[])
ORDER BY a.at
