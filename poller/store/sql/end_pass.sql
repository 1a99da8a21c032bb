-- The pass's last batch: coverage and cursor commit with what was read. What was left for another read stays owed until a pass counts.
UPDATE poller.target
SET last_began = :began,
    coverage = :coverage,
    failure = :failure,
    failures = CASE WHEN CAST(:failure AS text) IS NULL AND :coverage <> 'incomplete' THEN 0 ELSE failures + 1 END,
    unproven_streak = CASE WHEN :coverage = 'unproven' THEN unproven_streak + 1 ELSE 0 END,
    complete_began = CASE WHEN :counts THEN :began ELSE complete_began END,
    complete_ended = CASE WHEN :counts THEN :ended ELSE complete_ended END,
    baseline_at = coalesce(baseline_at, CASE WHEN :counts THEN CAST(:ended AS timestamptz) END),
    known = CASE WHEN :counts THEN ARRAY(SELECT unnest(known) UNION SELECT unnest(CAST(:read_types AS text[]))) ELSE known END,
    cursor_at = CASE WHEN :counts AND NOT :reread THEN greatest(cursor_at, CAST(:cursor_at AS timestamptz)) ELSE cursor_at END,
    -- a type or patient that joined while it was read is still to be read
    reread = :reread OR (reread AND NOT (:counts AND types <@ CAST(:read_types AS text[]) AND population <= :read_patients)),
    sweep_found = CASE WHEN :counts THEN ARRAY(SELECT unnest(sweep_found) EXCEPT SELECT unnest(CAST(:settled AS text[]))) ELSE sweep_found END
WHERE practice = :practice AND target = :target
