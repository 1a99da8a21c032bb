-- Where the first window beside a content read starts.
UPDATE poller.target
SET cursor_at = CAST(:window_from AS timestamptz)
WHERE practice = :practice AND target = :window AND cursor_at IS NULL
