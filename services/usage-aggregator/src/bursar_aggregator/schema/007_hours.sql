-- What pages ask most, made small: requests of an hour that are alike, summed up once the hour has gone quiet. An hour
-- counts as summed up while its sums were read later than anything that could still have been on its way into it
-- (usage_hours_built.built_at against usage_hours_touched.touched_at); else whoever asks reads its requests themselves.
-- The indexes find one person's, one answer's and one agent's requests; columns of few values need none.
ALTER TABLE bursar.usage_events
    ADD INDEX IF NOT EXISTS user_id_index user_id TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE bursar.usage_events
    ADD INDEX IF NOT EXISTS upstream_request_id_index upstream_request_id TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE bursar.usage_events
    ADD INDEX IF NOT EXISTS message_id_index message_id TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE bursar.usage_events
    ADD INDEX IF NOT EXISTS tag_values_index mapValues(tags) TYPE bloom_filter(0.01) GRANULARITY 1;

CREATE TABLE IF NOT EXISTS bursar.usage_hours
(
    `hour` DateTime('UTC') COMMENT 'The UTC hour the requests were admitted in',
    `generation` UInt64 COMMENT 'Which building of the hour the row is of; only that of usage_hours_built counts',
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
    `last_at` DateTime64(3, 'UTC') COMMENT 'The last of the requests, UTC'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, virtual_key_id, session_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Requests that are alike, summed by hour: for pages; rows of former generations until they are cleared away';

CREATE TABLE IF NOT EXISTS bursar.usage_latencies
(
    `hour` DateTime('UTC') COMMENT 'The UTC hour the requests were admitted in',
    `generation` UInt64 COMMENT 'Which building of the hour the row is of; only that of usage_hours_built counts',
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
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, team_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'How long answers took, by hour: for pages';

CREATE TABLE IF NOT EXISTS bursar.usage_hours_built
(
    `hour` DateTime('UTC') COMMENT 'A UTC hour that was summed up',
    `generation` UInt64 COMMENT 'Of the rows in usage_hours that count',
    `built_at` DateTime64(3, 'UTC') COMMENT 'When its requests began to be read for it'
)
ENGINE = ReplacingMergeTree(built_at)
ORDER BY hour
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Hours that are summed up in usage_hours';

CREATE TABLE IF NOT EXISTS bursar.usage_hours_touched
(
    `hour` DateTime('UTC') COMMENT 'A UTC hour that got requests',
    `touched_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When rows were last about to be written into it'
)
ENGINE = ReplacingMergeTree(touched_at)
ORDER BY hour
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Hours that got requests; noted before the rows are written';
