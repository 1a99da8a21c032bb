-- All keys of some practices, or of all.
SELECT practice, key_id, wrapped, master, created_at
FROM poller.practice_key
WHERE CAST(:practices AS text[]) IS NULL OR practice = ANY (:practices)
ORDER BY practice, key_id
