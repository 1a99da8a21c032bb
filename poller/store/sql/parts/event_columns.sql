-- Of an event, e, in the order in which poller.store.events takes them.
e.practice, e.epoch, e.sequence, e.event_id, e.resource_type, e.id, e.version, e.action, e.origin, e.changed, e.categories, e.status,
  e.partition_key, e.recorded_at, e.previous_read, e.last_modified, e.replaced_by, e.evidence
