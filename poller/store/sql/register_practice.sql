-- A practice's log, once. One that was forgotten begins in a new epoch, with versions that it has not had.
INSERT INTO poller.practice_log (practice, epoch, version_floor)
SELECT :practice, 1 + coalesce(max(f.epoch), 0), greatest(1, max(f.version_floor))
FROM poller.former AS f
WHERE f.digest = sha256(f.salt || convert_to(:practice, 'UTF8'))
ON CONFLICT DO NOTHING
