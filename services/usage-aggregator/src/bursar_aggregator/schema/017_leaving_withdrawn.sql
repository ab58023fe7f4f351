-- A month that was about to leave may stay after all, and none leaves while analytics are rebuilt: steps of usage_left that
-- take back the one before. `stays` takes back `leaving`; `rebuilding` (of month 1970-01) holds everything until `rebuilt`.
ALTER TABLE bursar.usage_left
    COMMENT COLUMN `step` 'leaving: what comes for it now is set aside; archived: it was written and read back; left: its rows are gone; stays: it was not to leave after all; rebuilding, rebuilt (1970-01): nothing leaves in between';

CREATE OR REPLACE VIEW bursar.usage_kept
(
    `kept_from` Date COMMENT 'First UTC day whose requests are kept; 1970: all are',
    `taken_from` Date COMMENT 'First UTC day that still takes requests: what comes for days before is set aside',
    `archive` String COMMENT 'Where the requests of the last month that left were written to; empty: nowhere'
)
AS SELECT
    if(countIf(x.has_left) = 0, toDate(0), addMonths(maxIf(x.month, x.has_left), 1)) AS kept_from,
    if(countIf(x.leaves) = 0, toDate(0), addMonths(maxIf(x.month, x.leaves), 1)) AS taken_from,
    argMaxIf(x.archived_in, x.month, x.archived_in != '') AS archive
FROM
(
    SELECT
        y.month AS month,
        countIf(y.step = 'left') > 0 AS has_left,
        has_left OR maxIf(y.at, y.step = 'leaving') > maxIf(y.at, y.step = 'stays') AS leaves,
        if(leaves, argMaxIf(y.archive, y.at, y.step = 'archived'), '') AS archived_in
    FROM bursar.usage_left AS y GROUP BY y.month
) AS x
COMMENT 'From which day on requests are kept';
