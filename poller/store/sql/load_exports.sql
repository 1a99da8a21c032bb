-- The jobs of a practice in these states, oldest first; of one group, or of all; only those that the server may still hold, if asked so.
SELECT job, group_id, types, since, purpose, state, poll_url, started_at, polled_at, next_poll_at, polls, transaction_time, manifest,
       files_done, rows, failure, ended_at
FROM poller.export
WHERE practice = :practice
  AND state = ANY (CAST(:states AS text[]))
  AND (CAST(:group_id AS text) IS NULL OR group_id = :group_id)
  AND (NOT :held OR poll_url IS NOT NULL)
ORDER BY started_at, job
