-- Moves a cursor past a run of events and books what became of them. Only from where the relay has read: nothing is returned if the cursor
-- stands elsewhere, or if another event was routed last; then another relay has moved it, and what this one believes is not so.
INSERT INTO poller.cursor AS c (
  sink, practice, epoch, sequence, ordinal, routed, moved_at, delivered, filtered, snapshot_type, snapshot_id)
VALUES (
  :sink, :practice, :epoch, :sequence, :ordinal, :routed, clock_timestamp(), :delivered, :filtered, :snapshot_type, :snapshot_id)
ON CONFLICT (sink, practice) DO UPDATE
SET epoch = EXCLUDED.epoch, sequence = EXCLUDED.sequence, ordinal = EXCLUDED.ordinal, routed = EXCLUDED.routed,
    moved_at = EXCLUDED.moved_at, delivered = c.delivered + EXCLUDED.delivered, filtered = c.filtered + EXCLUDED.filtered,
    snapshot_type = EXCLUDED.snapshot_type, snapshot_id = EXCLUDED.snapshot_id
WHERE (c.epoch, c.sequence, c.ordinal) = (:from_epoch, :from_sequence, :from_ordinal)
  AND c.routed IS NOT DISTINCT FROM CAST(:from_routed AS text)
RETURNING sequence
