-- Rollups, read live from bursar.usage. Names are the latest of the period, so that a rename does not split a row.
-- Money is summed in 128 bits: a few requests at the largest limits would overflow 64.

CREATE OR REPLACE VIEW bursar.usage_hourly_by_team
(
    `hour` DateTime('UTC') COMMENT 'Start of the UTC hour',
    `customer_id` LowCardinality(String) COMMENT 'Grouped by',
    `customer` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `team_id` LowCardinality(String) COMMENT 'Grouped by',
    `team` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `upstream_errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, nano-dollars',
    `cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars, exact',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars, exact',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Part of cost_usd charged for holds that expired, dollars'
)
AS SELECT
    toStartOfHour(toDateTime(u.started_at)) AS hour,
    u.customer_id AS customer_id,
    argMax(u.customer, u.started_at) AS customer,
    u.team_id AS team_id,
    argMax(u.team, u.started_at) AS team,
    countIf(u.outcome != 'refused') AS requests,
    countIf(u.outcome = 'refused') AS refused,
    countIf(u.outcome = 'upstream_error') AS upstream_errors,
    countIf(u.estimated) AS estimated,
    countIf(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL) AS without_counts,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(toInt128(u.cost_nusd)) AS cost_nusd,
    sum(u.cost_usd) AS cost_usd,
    sum(toInt128(u.list_cost_nusd)) AS list_cost_nusd,
    sum(u.list_cost_usd) AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd
FROM bursar.usage AS u
GROUP BY hour, u.customer_id, u.team_id
COMMENT 'Usage per UTC hour and team';

CREATE OR REPLACE VIEW bursar.usage_hourly_by_key
(
    `hour` DateTime('UTC') COMMENT 'Start of the UTC hour',
    `team_id` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `team` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `virtual_key_id` String COMMENT 'Grouped by',
    `virtual_key` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `upstream_errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, nano-dollars',
    `cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars, exact',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars, exact',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Part of cost_usd charged for holds that expired, dollars'
)
AS SELECT
    toStartOfHour(toDateTime(u.started_at)) AS hour,
    argMax(u.team_id, u.started_at) AS team_id,
    argMax(u.team, u.started_at) AS team,
    u.virtual_key_id AS virtual_key_id,
    argMax(u.virtual_key, u.started_at) AS virtual_key,
    countIf(u.outcome != 'refused') AS requests,
    countIf(u.outcome = 'refused') AS refused,
    countIf(u.outcome = 'upstream_error') AS upstream_errors,
    countIf(u.estimated) AS estimated,
    countIf(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL) AS without_counts,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(toInt128(u.cost_nusd)) AS cost_nusd,
    sum(u.cost_usd) AS cost_usd,
    sum(toInt128(u.list_cost_nusd)) AS list_cost_nusd,
    sum(u.list_cost_usd) AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd
FROM bursar.usage AS u
GROUP BY hour, u.virtual_key_id
COMMENT 'Usage per UTC hour and key';

CREATE OR REPLACE VIEW bursar.usage_hourly_by_model
(
    `hour` DateTime('UTC') COMMENT 'Start of the UTC hour',
    `provider` LowCardinality(String) COMMENT 'Grouped by',
    `model` LowCardinality(String) COMMENT 'Grouped by',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `upstream_errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, nano-dollars',
    `cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars, exact',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars, exact',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Part of cost_usd charged for holds that expired, dollars'
)
AS SELECT
    toStartOfHour(toDateTime(u.started_at)) AS hour,
    u.provider AS provider,
    u.model AS model,
    countIf(u.outcome != 'refused') AS requests,
    countIf(u.outcome = 'refused') AS refused,
    countIf(u.outcome = 'upstream_error') AS upstream_errors,
    countIf(u.estimated) AS estimated,
    countIf(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL) AS without_counts,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(toInt128(u.cost_nusd)) AS cost_nusd,
    sum(u.cost_usd) AS cost_usd,
    sum(toInt128(u.list_cost_nusd)) AS list_cost_nusd,
    sum(u.list_cost_usd) AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd
FROM bursar.usage AS u
GROUP BY hour, u.provider, u.model
COMMENT 'Usage per UTC hour and model';

CREATE OR REPLACE VIEW bursar.usage_hourly_by_project
(
    `hour` DateTime('UTC') COMMENT 'Start of the UTC hour',
    `customer_id` LowCardinality(String) COMMENT 'Grouped by',
    `customer` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `project` LowCardinality(String) COMMENT 'Grouped by',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `upstream_errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, nano-dollars',
    `cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars, exact',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars, exact',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Part of cost_usd charged for holds that expired, dollars'
)
AS SELECT
    toStartOfHour(toDateTime(u.started_at)) AS hour,
    u.customer_id AS customer_id,
    argMax(u.customer, u.started_at) AS customer,
    u.project AS project,
    countIf(u.outcome != 'refused') AS requests,
    countIf(u.outcome = 'refused') AS refused,
    countIf(u.outcome = 'upstream_error') AS upstream_errors,
    countIf(u.estimated) AS estimated,
    countIf(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL) AS without_counts,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(toInt128(u.cost_nusd)) AS cost_nusd,
    sum(u.cost_usd) AS cost_usd,
    sum(toInt128(u.list_cost_nusd)) AS list_cost_nusd,
    sum(u.list_cost_usd) AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd
FROM bursar.usage AS u
GROUP BY hour, u.customer_id, u.project
COMMENT 'Usage per UTC hour and project';

CREATE OR REPLACE VIEW bursar.usage_daily_by_team
(
    `day` Date COMMENT 'Start of the UTC day',
    `customer_id` LowCardinality(String) COMMENT 'Grouped by',
    `customer` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `team_id` LowCardinality(String) COMMENT 'Grouped by',
    `team` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `upstream_errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, nano-dollars',
    `cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars, exact',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars, exact',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Part of cost_usd charged for holds that expired, dollars'
)
AS SELECT
    toDate(u.started_at) AS day,
    u.customer_id AS customer_id,
    argMax(u.customer, u.started_at) AS customer,
    u.team_id AS team_id,
    argMax(u.team, u.started_at) AS team,
    countIf(u.outcome != 'refused') AS requests,
    countIf(u.outcome = 'refused') AS refused,
    countIf(u.outcome = 'upstream_error') AS upstream_errors,
    countIf(u.estimated) AS estimated,
    countIf(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL) AS without_counts,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(toInt128(u.cost_nusd)) AS cost_nusd,
    sum(u.cost_usd) AS cost_usd,
    sum(toInt128(u.list_cost_nusd)) AS list_cost_nusd,
    sum(u.list_cost_usd) AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd
FROM bursar.usage AS u
GROUP BY day, u.customer_id, u.team_id
COMMENT 'Usage per UTC day and team';

CREATE OR REPLACE VIEW bursar.usage_daily_by_key
(
    `day` Date COMMENT 'Start of the UTC day',
    `team_id` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `team` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `virtual_key_id` String COMMENT 'Grouped by',
    `virtual_key` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `upstream_errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, nano-dollars',
    `cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars, exact',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars, exact',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Part of cost_usd charged for holds that expired, dollars'
)
AS SELECT
    toDate(u.started_at) AS day,
    argMax(u.team_id, u.started_at) AS team_id,
    argMax(u.team, u.started_at) AS team,
    u.virtual_key_id AS virtual_key_id,
    argMax(u.virtual_key, u.started_at) AS virtual_key,
    countIf(u.outcome != 'refused') AS requests,
    countIf(u.outcome = 'refused') AS refused,
    countIf(u.outcome = 'upstream_error') AS upstream_errors,
    countIf(u.estimated) AS estimated,
    countIf(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL) AS without_counts,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(toInt128(u.cost_nusd)) AS cost_nusd,
    sum(u.cost_usd) AS cost_usd,
    sum(toInt128(u.list_cost_nusd)) AS list_cost_nusd,
    sum(u.list_cost_usd) AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd
FROM bursar.usage AS u
GROUP BY day, u.virtual_key_id
COMMENT 'Usage per UTC day and key';

CREATE OR REPLACE VIEW bursar.usage_daily_by_model
(
    `day` Date COMMENT 'Start of the UTC day',
    `provider` LowCardinality(String) COMMENT 'Grouped by',
    `model` LowCardinality(String) COMMENT 'Grouped by',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `upstream_errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, nano-dollars',
    `cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars, exact',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars, exact',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Part of cost_usd charged for holds that expired, dollars'
)
AS SELECT
    toDate(u.started_at) AS day,
    u.provider AS provider,
    u.model AS model,
    countIf(u.outcome != 'refused') AS requests,
    countIf(u.outcome = 'refused') AS refused,
    countIf(u.outcome = 'upstream_error') AS upstream_errors,
    countIf(u.estimated) AS estimated,
    countIf(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL) AS without_counts,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(toInt128(u.cost_nusd)) AS cost_nusd,
    sum(u.cost_usd) AS cost_usd,
    sum(toInt128(u.list_cost_nusd)) AS list_cost_nusd,
    sum(u.list_cost_usd) AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd
FROM bursar.usage AS u
GROUP BY day, u.provider, u.model
COMMENT 'Usage per UTC day and model';

CREATE OR REPLACE VIEW bursar.usage_daily_by_project
(
    `day` Date COMMENT 'Start of the UTC day',
    `customer_id` LowCardinality(String) COMMENT 'Grouped by',
    `customer` LowCardinality(String) COMMENT 'Latest name or owner in the period',
    `project` LowCardinality(String) COMMENT 'Grouped by',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `refused` UInt64 COMMENT 'Requests that were refused',
    `upstream_errors` UInt64 COMMENT 'Requests the provider answered with an error',
    `estimated` UInt64 COMMENT 'Requests whose charge is an estimate',
    `without_counts` UInt64 COMMENT 'Requests whose token counts are unknown and missing from the sums',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `cost_nusd` Int128 COMMENT 'Billed cost, nano-dollars',
    `cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars, exact',
    `list_cost_nusd` Int128 COMMENT 'Cost before discounts, nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars, exact',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Part of cost_usd charged for holds that expired, dollars'
)
AS SELECT
    toDate(u.started_at) AS day,
    u.customer_id AS customer_id,
    argMax(u.customer, u.started_at) AS customer,
    u.project AS project,
    countIf(u.outcome != 'refused') AS requests,
    countIf(u.outcome = 'refused') AS refused,
    countIf(u.outcome = 'upstream_error') AS upstream_errors,
    countIf(u.estimated) AS estimated,
    countIf(u.outcome NOT IN ('refused', 'not_sent', 'upstream_error') AND u.output_tokens IS NULL) AS without_counts,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(toInt128(u.cost_nusd)) AS cost_nusd,
    sum(u.cost_usd) AS cost_usd,
    sum(toInt128(u.list_cost_nusd)) AS list_cost_nusd,
    sum(u.list_cost_usd) AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd
FROM bursar.usage AS u
GROUP BY day, u.customer_id, u.project
COMMENT 'Usage per UTC day and project';
