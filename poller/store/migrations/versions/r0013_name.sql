SET LOCAL ROLE poller_owner;

-- Which poller accepted it: several, of different practices, may share one store. The latest of a name is in force for that name.
ALTER TABLE poller.configuration ADD COLUMN name text NOT NULL DEFAULT 'poller';
ALTER TABLE poller.configuration ALTER COLUMN name DROP DEFAULT;
CREATE INDEX configuration_name ON poller.configuration (name, revision);
GRANT SELECT (name) ON poller.configuration TO poller_status;
RESET ROLE;
