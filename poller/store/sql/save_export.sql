-- A job as it stands now; the whole row, since each step is one transaction.
INSERT INTO poller.export (practice, job, group_id, types, since, purpose, state, poll_url, started_at, polled_at, next_poll_at, polls,
  transaction_time, manifest, files_done, rows, failure, ended_at)
VALUES (:practice, :job, :group_id, :types, :since, :purpose, :state, :poll_url, :started_at, :polled_at, :next_poll_at, :polls,
  :transaction_time, CAST(:manifest AS jsonb), :files_done, :rows, :failure, :ended_at)
ON CONFLICT (practice, job) DO UPDATE
SET state = EXCLUDED.state,
    poll_url = EXCLUDED.poll_url,
    started_at = EXCLUDED.started_at,
    polled_at = EXCLUDED.polled_at,
    next_poll_at = EXCLUDED.next_poll_at,
    polls = EXCLUDED.polls,
    transaction_time = EXCLUDED.transaction_time,
    manifest = EXCLUDED.manifest,
    files_done = EXCLUDED.files_done,
    rows = EXCLUDED.rows,
    failure = EXCLUDED.failure,
    ended_at = EXCLUDED.ended_at
