-- Sums of closed UTC days, for questions over weeks and months. A day is summed up from the sums of its hours (007), once
-- it is over and all of them are complete, several times: each cut by the few dimensions that one kind of question needs
-- (bursar_common.usage_sums), which makes it a hundredth of the hours' rows. A day counts while usage_days_built names
-- the very buildings of its hours that count now (source); when one of them is built again, for a late event or a
-- correction, the day is read by hours until it is built again as well.
ALTER TABLE bursar.usage_hours
    ADD COLUMN IF NOT EXISTS `short_requests` UInt64 COMMENT 'Of requests: completed ones with fewer than 500 output tokens and no web search',
    ADD COLUMN IF NOT EXISTS `short_input_tokens` UInt64 COMMENT 'input_tokens of the short answers',
    ADD COLUMN IF NOT EXISTS `short_cache_read_tokens` UInt64 COMMENT 'cache_read_tokens of the short answers',
    ADD COLUMN IF NOT EXISTS `short_cache_write_5m_tokens` UInt64 COMMENT 'cache_write_5m_tokens of the short answers',
    ADD COLUMN IF NOT EXISTS `short_cache_write_1h_tokens` UInt64 COMMENT 'cache_write_1h_tokens of the short answers',
    ADD COLUMN IF NOT EXISTS `short_output_tokens` UInt64 COMMENT 'output_tokens of the short answers',
    ADD COLUMN IF NOT EXISTS `short_list_cost_nusd` Int128 COMMENT 'list_cost_nusd of the short answers',
    ADD COLUMN IF NOT EXISTS `top_cost_nusd` Int64 COMMENT 'The highest cost_nusd of one request, as recorded, nano-dollars',
    ADD COLUMN IF NOT EXISTS `top_list_cost_nusd` Int64 COMMENT 'The highest list_cost_nusd of one request, as recorded, nano-dollars',
    ADD COLUMN IF NOT EXISTS `top_tokens` Int64 COMMENT 'The most tokens of one request; -1: unknown of all',
    ADD COLUMN IF NOT EXISTS `top_latency_ms` Int64 COMMENT 'The highest latency_ms of one request; -1: unknown of all';

-- Hours that were summed up before this file have none of these: form says so, and they are summed up again.
ALTER TABLE bursar.usage_hours_built
    ADD COLUMN IF NOT EXISTS `form` UInt8 DEFAULT 0 COMMENT 'What the sums hold: 0 neither short_ nor top_ columns, 1 all columns';

CREATE TABLE IF NOT EXISTS bursar.usage_days
(
    `cut` LowCardinality(String) COMMENT 'By what the day is summed: hour, team, project, key or session; each is the whole day, so ask for one of them. Columns that a cut does not have are empty',
    `day` Date COMMENT 'The UTC day the requests were admitted in',
    `at` DateTime('UTC') COMMENT 'Beginning of the day; in the cut hour, of the hour',
    `generation` UInt64 COMMENT 'Which building of the day the row is of; only that of usage_days_built counts',
    `customer` LowCardinality(String) COMMENT 'Customer\'s name as of then',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s name as of then',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `user_id` LowCardinality(String) COMMENT 'Person\'s id',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s name as of then',
    `virtual_key_id` LowCardinality(String) COMMENT 'Virtual key\'s id',
    `session_id` String COMMENT 'Claude Code\'s session',
    `project` LowCardinality(String) COMMENT 'x-bursar-project',
    `repository` LowCardinality(String) COMMENT 'x-bursar-repository',
    `environment` LowCardinality(String) COMMENT 'x-bursar-environment',
    `cost_center` LowCardinality(String) COMMENT 'x-bursar-cost-center',
    `provider` LowCardinality(String) COMMENT 'Provider entity that served; simulator: no money was spent',
    `model` LowCardinality(String) COMMENT 'Model that served, as far as known, else the requested one',
    `outcome` LowCardinality(String) COMMENT 'completed, interrupted, unreadable, unknown, expired, upstream_error, not_sent or refused',
    `refused_by` LowCardinality(String) COMMENT 'Reason of the refusal; empty: not refused',
    `billing` LowCardinality(String) COMMENT 'metered, subscription, customer or imported',
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, corrections included, nano-dollars',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, corrections included, nano-dollars',
    `first_at` DateTime64(3, 'UTC') COMMENT 'The first of the requests, UTC',
    `last_at` DateTime64(3, 'UTC') COMMENT 'The last of the requests, UTC',
    `short_requests` UInt64 COMMENT 'Of requests: completed ones with fewer than 500 output tokens and no web search',
    `short_input_tokens` UInt64 COMMENT 'input_tokens of the short answers',
    `short_cache_read_tokens` UInt64 COMMENT 'cache_read_tokens of the short answers',
    `short_cache_write_5m_tokens` UInt64 COMMENT 'cache_write_5m_tokens of the short answers',
    `short_cache_write_1h_tokens` UInt64 COMMENT 'cache_write_1h_tokens of the short answers',
    `short_output_tokens` UInt64 COMMENT 'output_tokens of the short answers',
    `short_list_cost_nusd` Int128 COMMENT 'list_cost_nusd of the short answers',
    `top_cost_nusd` Int64 COMMENT 'The highest cost_nusd of one request, as recorded, nano-dollars',
    `top_list_cost_nusd` Int64 COMMENT 'The highest list_cost_nusd of one request, as recorded, nano-dollars',
    `top_tokens` Int64 COMMENT 'The most tokens of one request; -1: unknown of all',
    `top_latency_ms` Int64 COMMENT 'The highest latency_ms of one request; -1: unknown of all'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (cut, day, team_id, virtual_key_id, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Closed days summed in several cuts: for pages; rows of former generations until they are cleared away';

CREATE TABLE IF NOT EXISTS bursar.usage_latency_days
(
    `cut` LowCardinality(String) COMMENT 'By what the day is summed: hour, model or team',
    `day` Date COMMENT 'The UTC day the requests were admitted in',
    `at` DateTime('UTC') COMMENT 'Beginning of the day; in the cut hour, of the hour',
    `generation` UInt64 COMMENT 'Which building of the day the row is of; only that of usage_days_built counts',
    `customer` LowCardinality(String) COMMENT 'Customer\'s name as of then',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s name as of then',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `provider` LowCardinality(String) COMMENT 'Provider entity that served',
    `model` LowCardinality(String) COMMENT 'Model that served',
    `outcome` LowCardinality(String) COMMENT 'Outcome of the requests',
    `billing` LowCardinality(String) COMMENT 'metered, subscription, customer or imported',
    `latency_states` AggregateFunction(quantilesTDigest(0.5, 0.95), Nullable(UInt64)) COMMENT 'Quantiles of latency_ms, to be merged',
    `time_to_first_token_states` AggregateFunction(quantilesTDigest(0.5, 0.95), Nullable(UInt64)) COMMENT 'Quantiles of time_to_first_token_ms, to be merged'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (cut, day, team_id, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'How long answers of closed days took, in several cuts: for pages';

CREATE TABLE IF NOT EXISTS bursar.usage_days_built
(
    `day` Date COMMENT 'A UTC day that was summed up',
    `generation` UInt64 COMMENT 'Of the rows in usage_days that count',
    `source` UInt64 COMMENT 'Digest of the buildings of its hours that it was made of',
    `built_at` DateTime64(3, 'UTC') COMMENT 'When it was made'
)
ENGINE = ReplacingMergeTree(built_at)
ORDER BY day
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Days that are summed up in usage_days';

-- Of every hour that has requests: whether its sums are complete, and in which building. Of hour 0: all hours are noted.
CREATE OR REPLACE VIEW bursar.usage_hours_state
(
    `hour` DateTime('UTC') COMMENT 'A UTC hour',
    `complete` Bool COMMENT 'Its sums hold all its requests',
    `generation` UInt64 COMMENT 'Of the rows in usage_hours that count; 0: none',
    `form` UInt8 COMMENT 'What its sums hold, as in usage_hours_built'
)
AS SELECT
    t.hour AS hour,
    b.built_at > t.touched_at + INTERVAL 180 SECOND AS complete,
    b.generation AS generation,
    b.form AS form
FROM (SELECT x.hour AS hour, max(x.touched_at) AS touched_at FROM bursar.usage_hours_touched AS x GROUP BY x.hour) AS t
LEFT JOIN
(
    SELECT
        x.hour AS hour, max(x.built_at) AS built_at, argMax(x.generation, x.built_at) AS generation,
        argMax(x.form, x.built_at) AS form
    FROM bursar.usage_hours_built AS x GROUP BY x.hour
) AS b ON b.hour = t.hour
COMMENT 'Hours and whether they are summed up';

-- Of every UTC day that has requests: whether its sums of days are complete.
CREATE OR REPLACE VIEW bursar.usage_days_state
(
    `day` Date COMMENT 'A UTC day',
    `closed` Bool COMMENT 'The sums of all its hours are complete, short answers included',
    `complete` Bool COMMENT 'Its rows in usage_days hold all its requests',
    `source` UInt64 COMMENT 'Digest of the buildings of its hours that count now',
    `generation` UInt64 COMMENT 'Of the rows in usage_days that count; 0: none'
)
AS SELECT
    h.day AS day,
    h.closed AS closed,
    h.closed AND b.day = h.day AND b.source = h.source AS complete,
    h.source AS source,
    b.generation AS generation
FROM
(
    SELECT
        toDate(hour) AS day,
        min(complete AND form >= 1) AS closed,
        sipHash64(arraySort(groupArray((toUnixTimestamp(hour), generation)))) AS source
    FROM bursar.usage_hours_state WHERE hour != toDateTime(0, 'UTC') GROUP BY day
) AS h
LEFT JOIN
(
    SELECT x.day AS day, argMax(x.generation, x.built_at) AS generation, argMax(x.source, x.built_at) AS source
    FROM bursar.usage_days_built AS x GROUP BY x.day
) AS b ON b.day = h.day
COMMENT 'Days and whether they are summed up';
