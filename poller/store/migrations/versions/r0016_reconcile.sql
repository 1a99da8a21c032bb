SET LOCAL ROLE poller_owner;

-- Operators may ask for a full pass over a practice or a feed.
ALTER TABLE poller.control DROP CONSTRAINT control_action_check;
ALTER TABLE poller.control ADD CONSTRAINT control_action_check
  CHECK (action IN ('reload', 'pause', 'resume', 'read-now', 'reconcile'));
RESET ROLE;
