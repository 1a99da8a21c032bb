-- From where the replay was believed to be: nothing is returned if another process has carried it on, or it was cancelled.
UPDATE poller.replay
SET epoch = :epoch, sequence = :sequence, routed = :routed, sent = sent + :sent, written = :written, state = :state,
    moved_at = clock_timestamp()
WHERE practice = :practice AND replay = :replay AND state = 'running' AND (epoch, sequence) = (:from_epoch, :from_sequence)
RETURNING sent
