-- The key that seals what a practice writes now.
SELECT key_id, wrapped, master FROM poller.practice_key WHERE practice = :practice ORDER BY key_id DESC LIMIT 1
