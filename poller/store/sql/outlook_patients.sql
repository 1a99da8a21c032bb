-- How many patients of a practice are known who are not gone.
SELECT count(*) AS patients FROM poller.patient AS p WHERE p.practice = :practice AND p.gone_at IS NULL
