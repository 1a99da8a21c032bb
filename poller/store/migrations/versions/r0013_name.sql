SET LOCAL ROLE poller_owner;

-- Which poller accepted it: several, of different practices, may share one store. The latest of a name is in force for that name.
-- The default is for engines of the release before, which may run on for a while.
ALTER TABLE poller.configuration ADD COLUMN name text NOT NULL DEFAULT 'poller';
CREATE INDEX configuration_name ON poller.configuration (name, revision);
GRANT SELECT (name) ON poller.configuration TO poller_status;
RESET ROLE;
