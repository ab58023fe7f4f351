-- Requests of the last days once more, by hour: usage_events is ordered by day and key, so that whoever asks for the hour
-- that is running unpacks the columns of its whole day. Here an hour is a few granules. Columns are those that sums and
-- quantiles are made of; all else is asked of usage_events, and so is whatever began longer ago than two days.
-- By day of the month: a part holds one day, which leaves as a whole; and whatever dates there are, an insert has 31 parts
-- at most. An event that comes again has the same started_at, hence meets its twins here as it does there.
CREATE TABLE IF NOT EXISTS bursar.usage_recent
(
    `request_id` String COMMENT 'UUIDv7 minted by the edge; the hold has the same id',
    `started_at` DateTime64(3, 'UTC') COMMENT 'When the edge admitted the request, UTC, milliseconds; the same on every event of the request',
    `customer` LowCardinality(String) COMMENT 'Customer\'s name as of then',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s name as of then',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `user_id` String COMMENT 'Person\'s id; the only thing about a person in the log',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s name as of then',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `session_id` String COMMENT 'Claude Code\'s session',
    `project` LowCardinality(String) COMMENT 'x-bursar-project of the request',
    `repository` LowCardinality(String) COMMENT 'x-bursar-repository of the request',
    `environment` LowCardinality(String) COMMENT 'x-bursar-environment of the request',
    `cost_center` LowCardinality(String) COMMENT 'x-bursar-cost-center of the request',
    `provider` LowCardinality(String) COMMENT 'Provider entity that served; simulator: Bursar\'s own, no money was spent',
    `model` LowCardinality(String) COMMENT 'Model that served, as far as known, else the requested one',
    `outcome` LowCardinality(String) COMMENT 'completed, interrupted, unreadable, unknown, expired, upstream_error, not_sent or refused',
    `refused_by` LowCardinality(String) COMMENT 'Reason of the refusal; empty: not refused',
    `estimated` Bool COMMENT 'The charge is an estimate, not the provider\'s own count',
    `billing` LowCardinality(String) COMMENT 'metered, subscription, customer or imported',
    `input_tokens` Nullable(UInt64) COMMENT 'Input tokens, cached ones excluded; NULL: unknown, which is not zero',
    `cache_read_tokens` Nullable(UInt64) COMMENT 'Tokens read from the cache; NULL: unknown',
    `cache_write_5m_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 5 minute cache; NULL: unknown',
    `cache_write_1h_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 1 hour cache; NULL: unknown',
    `output_tokens` Nullable(UInt64) COMMENT 'Output tokens, thinking included; NULL: unknown',
    `thinking_tokens` Nullable(UInt64) COMMENT 'Thinking tokens, part of output_tokens; NULL: unknown',
    `web_searches` Nullable(UInt64) COMMENT 'Web searches; NULL: unknown',
    `tool_uses` Nullable(UInt64) COMMENT 'Calls of tools in the answer, the provider\'s own included; of a cut answer those that came; NULL: unknown',
    `cost_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars: what every budget in charged_to was charged',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars; for subscription and customer billing what it would have cost',
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `latency_ms` Nullable(UInt64) COMMENT 'Admission to the end of the answer, milliseconds; NULL: unknown',
    `time_to_first_token_ms` Nullable(UInt64) COMMENT 'Admission to the first content, milliseconds; NULL: unknown',
    `rank` UInt8 COMMENT 'Which event of a request wins: denied 0, expired 1, recorded 2'
)
ENGINE = ReplacingMergeTree(rank)
PARTITION BY toDayOfMonth(started_at)
ORDER BY (toStartOfHour(started_at), virtual_key_id, request_id)
TTL toDateTime(started_at) + INTERVAL 3 DAY
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Copy of the last days of usage_events by hour, for pages; query bursar.usage instead';

-- Written by the insert into usage_events itself, which ends when both are on the disk: where it ends in between, the
-- log's position has not moved, and both get the rows again. Rows that come late are copied too, up to a day more than
-- readers look back.
CREATE MATERIALIZED VIEW IF NOT EXISTS bursar.usage_recent_feed TO bursar.usage_recent
AS SELECT request_id, started_at, customer, customer_id, team, team_id, user_id, virtual_key, virtual_key_id, session_id, project, repository, environment, cost_center, provider, model, outcome, refused_by, billing, price_book_id, estimated, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, tool_uses, cost_nusd, list_cost_nusd, latency_ms, time_to_first_token_ms, rank
FROM bursar.usage_events
WHERE started_at >= now64(3) - INTERVAL 3 DAY
COMMENT 'Copies what is inserted into usage_events to usage_recent';

-- An insert of another replica that began before there was a view to feed is in usage_events by the end of this. (Where
-- it is not, its hour is right again when it is summed up, which is done from usage_events.)
SELECT sleepEachRow(3) FROM (SELECT request_id FROM bursar.usage_events LIMIT 1);

-- What is there already, a day at a time. The newest first: so nothing is left out if midnight passes meanwhile.
INSERT INTO bursar.usage_recent (request_id, started_at, customer, customer_id, team, team_id, user_id, virtual_key, virtual_key_id, session_id, project, repository, environment, cost_center, provider, model, outcome, refused_by, billing, price_book_id, estimated, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, tool_uses, cost_nusd, list_cost_nusd, latency_ms, time_to_first_token_ms, rank)
SELECT request_id, started_at, customer, customer_id, team, team_id, user_id, virtual_key, virtual_key_id, session_id, project, repository, environment, cost_center, provider, model, outcome, refused_by, billing, price_book_id, estimated, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, tool_uses, cost_nusd, list_cost_nusd, latency_ms, time_to_first_token_ms, rank FROM bursar.usage_events
WHERE toDate(started_at) >= toDate(now('UTC'));

INSERT INTO bursar.usage_recent (request_id, started_at, customer, customer_id, team, team_id, user_id, virtual_key, virtual_key_id, session_id, project, repository, environment, cost_center, provider, model, outcome, refused_by, billing, price_book_id, estimated, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, tool_uses, cost_nusd, list_cost_nusd, latency_ms, time_to_first_token_ms, rank)
SELECT request_id, started_at, customer, customer_id, team, team_id, user_id, virtual_key, virtual_key_id, session_id, project, repository, environment, cost_center, provider, model, outcome, refused_by, billing, price_book_id, estimated, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, tool_uses, cost_nusd, list_cost_nusd, latency_ms, time_to_first_token_ms, rank FROM bursar.usage_events
WHERE toDate(started_at) = toDate(now('UTC')) - 1;

INSERT INTO bursar.usage_recent (request_id, started_at, customer, customer_id, team, team_id, user_id, virtual_key, virtual_key_id, session_id, project, repository, environment, cost_center, provider, model, outcome, refused_by, billing, price_book_id, estimated, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, tool_uses, cost_nusd, list_cost_nusd, latency_ms, time_to_first_token_ms, rank)
SELECT request_id, started_at, customer, customer_id, team, team_id, user_id, virtual_key, virtual_key_id, session_id, project, repository, environment, cost_center, provider, model, outcome, refused_by, billing, price_book_id, estimated, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, tool_uses, cost_nusd, list_cost_nusd, latency_ms, time_to_first_token_ms, rank FROM bursar.usage_events
WHERE toDate(started_at) = toDate(now('UTC')) - 2;
