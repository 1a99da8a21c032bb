INSERT INTO poller.replay (
  practice, replay, selection, payload, queue, file, sink, epoch, sequence, last_epoch, last_sequence, state, made_by)
VALUES (
  :practice, :replay, CAST(:selection AS jsonb), :payload, :queue, :file, :sink, :epoch, :sequence, :last_epoch, :last_sequence, 'running',
  :made_by)
