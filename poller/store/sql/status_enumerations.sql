-- How going through the files and Groups that name patients of these practices ended.
SELECT n.practice, n.source, n.began, n.ended, n.found, n.failure
FROM poller.enumeration AS n
WHERE n.practice = ANY (CAST(:practices AS text[]))
ORDER BY n.practice, n.source
