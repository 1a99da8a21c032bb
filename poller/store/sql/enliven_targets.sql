-- Targets that were never read, of patients of whom an export has shown all: what differs from it is news.
UPDATE poller.target AS t
SET live = true
WHERE t.practice = :practice AND t.resource_type = :resource_type AND t.kind = 'patient' AND t.baseline_at IS NULL AND t.retired_at IS NULL AND NOT t.live
  AND poller.was_read_whole(t.practice, t.resource_type, t.category, t.patient)
