-- Requests that are no longer kept. A month's requests leave together, once its books are stored, its sums are complete and,
-- where there is an archive, it has them: in that order, each step noted before the next is begun.
CREATE TABLE IF NOT EXISTS bursar.usage_left
(
    `month` Date COMMENT 'First day of a UTC month whose requests leave, or have left',
    `step` LowCardinality(String) COMMENT 'leaving: what comes for it now is set aside; archived: it was written and read back; left: its rows are gone',
    `at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When',
    `rows` UInt64 DEFAULT 0 COMMENT 'Requests that were archived',
    `archive` String DEFAULT '' COMMENT 'Where they were written to; empty: they were not'
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (month, step)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Months whose requests are no longer kept, or are about to go';

CREATE OR REPLACE VIEW bursar.usage_kept
(
    `kept_from` Date COMMENT 'First UTC day whose requests are kept; 1970: all are',
    `taken_from` Date COMMENT 'First UTC day that still takes requests: what comes for days before is set aside',
    `archive` String COMMENT 'Where the requests of the last month that left were written to; empty: nowhere'
)
AS SELECT
    if(countIf(x.step = 'left') = 0, toDate(0), addMonths(maxIf(x.month, x.step = 'left'), 1)) AS kept_from,
    if(count() = 0, toDate(0), addMonths(max(x.month), 1)) AS taken_from,
    argMaxIf(x.archive, x.month, x.step = 'archived') AS archive
FROM bursar.usage_left AS x
COMMENT 'From which day on requests are kept';
