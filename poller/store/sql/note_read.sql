INSERT INTO poller.read_audit (practice, token, asked, resource_type, id, version, status)
VALUES (:practice, :token, :asked, :resource_type, :id, :version, :status)
