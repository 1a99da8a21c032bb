SELECT practice, replay, selection, payload, queue, file, sink, epoch, sequence, last_epoch, last_sequence, routed, sent, written, state,
       made_by, began_at, moved_at
FROM poller.replay
WHERE CAST(:replay AS text) IS NULL OR replay = :replay
ORDER BY began_at DESC
