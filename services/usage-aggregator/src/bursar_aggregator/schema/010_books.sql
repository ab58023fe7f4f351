-- The books. A closed month is fixed at a place in the log: what stands behind that place and belongs to the month, or to
-- one before it, is booked in the month after the close. Every figure here is computed from raw rows and the closes of
-- governance, so a database that is made again from the log has the same books.
CREATE TABLE IF NOT EXISTS bursar.closed_months
(
    `month` Date COMMENT 'First day of the UTC month that was closed',
    `closed_at` DateTime('UTC') COMMENT 'When, UTC',
    `closed_by` String COMMENT 'Who closed it',
    `log_topics` Array(String) COMMENT 'Of each partition of the log: its topic',
    `log_partitions` Array(UInt32) COMMENT 'Of each partition of the log: its number',
    `next_offsets` Array(UInt64) COMMENT 'Of each partition of the log: offsets below this one were there at the close',
    `price_books` Array(String) COMMENT 'Price books that the month was priced with',
    `rows` UInt64 COMMENT 'Rows of booked_monthly that were closed',
    `requests` Int64 COMMENT 'Requests that were closed',
    `billed_nusd` Int64 COMMENT 'Billed cost of requests, expired holds and corrections included, nano-dollars',
    `list_nusd` Int64 COMMENT 'Their cost before discounts, nano-dollars',
    `allocated_nusd` Int64 COMMENT 'Fees and commitments, nano-dollars',
    `checksum` String COMMENT 'SHA-256 (hex) as of the close; month_checksums computes it anew',
    `version` UInt64 COMMENT 'Version of the entity; the highest stands'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY month
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Months that were closed, from the governance topic';

CREATE TABLE IF NOT EXISTS bursar.allocations
(
    `allocation_id` String COMMENT 'Id of the entity',
    `name` String COMMENT 'Its name',
    `kind` LowCardinality(String) COMMENT 'split: a shared key\'s cost moved to those who use it; fee: per seat and month; commitment: per month',
    `from_month` Date COMMENT 'First month it is charged in',
    `to_month` Nullable(Date) COMMENT 'Last month it is charged in; NULL: goes on',
    `virtual_key_id` String COMMENT 'The shared key of a split',
    `provider` LowCardinality(String) COMMENT 'Whose bill a fee or commitment is on',
    `part_customer_ids` Array(String) COMMENT 'Of each part: customer\'s id',
    `part_customers` Array(String) COMMENT 'Of each part: customer\'s name',
    `part_team_ids` Array(String) COMMENT 'Of each part: team\'s id',
    `part_teams` Array(String) COMMENT 'Of each part: team\'s name',
    `part_cost_centers` Array(String) COMMENT 'Of each part: cost centre; empty: that of the request',
    `part_weights` Array(UInt64) COMMENT 'Of each part: millionths of the whole; of a fee seats',
    `part_amounts_nusd` Array(Int64) COMMENT 'Of each part of a fee or commitment: nano-dollars a month',
    `deleted` Bool COMMENT 'It is no longer there',
    `version` UInt64 COMMENT 'Version of the entity; the highest stands'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY allocation_id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What is charged beside requests, from the governance topic';

ALTER TABLE bursar.corrections
    ADD COLUMN IF NOT EXISTS `log_offset` UInt64 DEFAULT 0 COMMENT 'Offset in the corrections topic the event was read at';

-- Expired holds are replaced in usage_events when the truth arrives; a closed month keeps what it was closed with.
CREATE TABLE IF NOT EXISTS bursar.expired_events
(
    `request_id` String COMMENT 'UUIDv7 of the request',
    `started_at` DateTime64(3, 'UTC') COMMENT 'When the edge admitted the request, UTC',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `customer` LowCardinality(String) COMMENT 'Customer\'s name as of then',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s name as of then',
    `user_id` String COMMENT 'Person\'s id',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s name as of then',
    `project` LowCardinality(String) COMMENT 'Project; empty: the request named none',
    `repository` LowCardinality(String) COMMENT 'Repository; empty: the request named none',
    `environment` LowCardinality(String) COMMENT 'Environment; empty: the request named none',
    `cost_center` LowCardinality(String) COMMENT 'Cost centre; empty: the request named none',
    `provider` LowCardinality(String) COMMENT 'Provider that bills',
    `provider_credential` LowCardinality(String) COMMENT 'Reference of the credential used (never its value)',
    `model` LowCardinality(String) COMMENT 'Model that served',
    `speed` LowCardinality(String) COMMENT 'Speed asked for or served (fast)',
    `service_tier` LowCardinality(String) COMMENT 'Service tier that served',
    `inference_geo` LowCardinality(String) COMMENT 'Region the inference ran in',
    `outcome` LowCardinality(String) COMMENT 'completed, interrupted, unreadable, unknown, expired, upstream_error or not_sent',
    `estimated` Bool COMMENT 'The charge is an estimate, not the provider\'s own count',
    `billing` LowCardinality(String) COMMENT 'metered: on our bill; subscription, customer, imported: not on our bill, shown at list price',
    `input_tokens` Nullable(UInt64) COMMENT 'Input tokens, cached ones excluded; NULL: unknown',
    `cache_read_tokens` Nullable(UInt64) COMMENT 'Tokens read from the cache; NULL: unknown',
    `cache_write_5m_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 5 minute cache; NULL: unknown',
    `cache_write_1h_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 1 hour cache; NULL: unknown',
    `output_tokens` Nullable(UInt64) COMMENT 'Output tokens, thinking included; NULL: unknown',
    `thinking_tokens` Nullable(UInt64) COMMENT 'Thinking tokens, part of output_tokens; NULL: unknown',
    `web_searches` Nullable(UInt64) COMMENT 'Web searches; NULL: unknown',
    `cost_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars',
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `log_topic` LowCardinality(String) COMMENT 'Topic the event was read from',
    `log_partition` UInt32 COMMENT 'Partition the event was read from',
    `log_offset` UInt64 COMMENT 'Offset the event was read at'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started_at)
ORDER BY (toDate(started_at), virtual_key_id, request_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Every expired event, also where the true figure has replaced it since';

CREATE MATERIALIZED VIEW IF NOT EXISTS bursar.expired_events_feed TO bursar.expired_events
(
    `request_id` String COMMENT 'UUIDv7 of the request',
    `started_at` DateTime64(3, 'UTC') COMMENT 'When the edge admitted the request, UTC',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `customer` LowCardinality(String) COMMENT 'Customer\'s name as of then',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s name as of then',
    `user_id` String COMMENT 'Person\'s id',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s name as of then',
    `project` LowCardinality(String) COMMENT 'Project; empty: the request named none',
    `repository` LowCardinality(String) COMMENT 'Repository; empty: the request named none',
    `environment` LowCardinality(String) COMMENT 'Environment; empty: the request named none',
    `cost_center` LowCardinality(String) COMMENT 'Cost centre; empty: the request named none',
    `provider` LowCardinality(String) COMMENT 'Provider that bills',
    `provider_credential` LowCardinality(String) COMMENT 'Reference of the credential used (never its value)',
    `model` LowCardinality(String) COMMENT 'Model that served',
    `speed` LowCardinality(String) COMMENT 'Speed asked for or served (fast)',
    `service_tier` LowCardinality(String) COMMENT 'Service tier that served',
    `inference_geo` LowCardinality(String) COMMENT 'Region the inference ran in',
    `outcome` LowCardinality(String) COMMENT 'completed, interrupted, unreadable, unknown, expired, upstream_error or not_sent',
    `estimated` Bool COMMENT 'The charge is an estimate, not the provider\'s own count',
    `billing` LowCardinality(String) COMMENT 'metered: on our bill; subscription, customer, imported: not on our bill, shown at list price',
    `input_tokens` Nullable(UInt64) COMMENT 'Input tokens, cached ones excluded; NULL: unknown',
    `cache_read_tokens` Nullable(UInt64) COMMENT 'Tokens read from the cache; NULL: unknown',
    `cache_write_5m_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 5 minute cache; NULL: unknown',
    `cache_write_1h_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 1 hour cache; NULL: unknown',
    `output_tokens` Nullable(UInt64) COMMENT 'Output tokens, thinking included; NULL: unknown',
    `thinking_tokens` Nullable(UInt64) COMMENT 'Thinking tokens, part of output_tokens; NULL: unknown',
    `web_searches` Nullable(UInt64) COMMENT 'Web searches; NULL: unknown',
    `cost_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars',
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `log_topic` LowCardinality(String) COMMENT 'Topic the event was read from',
    `log_partition` UInt32 COMMENT 'Partition the event was read from',
    `log_offset` UInt64 COMMENT 'Offset the event was read at'
)
AS SELECT
    request_id, started_at, customer_id, customer, team_id, team, user_id, virtual_key_id, virtual_key, project, repository, environment, cost_center, provider, provider_credential, model, speed, service_tier, inference_geo, outcome, estimated, billing, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, cost_nusd, list_cost_nusd, price_book_id, log_topic, log_partition, log_offset
FROM bursar.usage_events
WHERE rank = 1
COMMENT 'Fills expired_events';

INSERT INTO bursar.expired_events SELECT
    request_id, started_at, customer_id, customer, team_id, team, user_id, virtual_key_id, virtual_key, project, repository, environment, cost_center, provider, provider_credential, model, speed, service_tier, inference_geo, outcome, estimated, billing, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, cost_nusd, list_cost_nusd, price_book_id, log_topic, log_partition, log_offset
FROM bursar.usage_events
WHERE rank = 1;

-- A row a partition of the log that any close knows, with the closes' months and bounds in their order. A partition that
-- a close does not know is younger than it: all of it came later.
CREATE OR REPLACE VIEW bursar.log_closes
(
    `log_topic` LowCardinality(String) COMMENT 'Topic of the log',
    `log_partition` UInt32 COMMENT 'Partition of the topic',
    `months` Array(Date) COMMENT 'Closed months, earliest first',
    `bounds` Array(UInt64) COMMENT 'Of each of them: the first offset that came after the close'
)
AS SELECT
    p.log_topic AS log_topic,
    p.log_partition AS log_partition,
    arrayMap(each -> each.1, arraySort(groupArray((m.month, m.next_offsets[indexOf(arrayZip(m.log_topics, m.log_partitions), (p.log_topic, p.log_partition))])))) AS months,
    arrayMap(each -> each.2, arraySort(groupArray((m.month, m.next_offsets[indexOf(arrayZip(m.log_topics, m.log_partitions), (p.log_topic, p.log_partition))])))) AS bounds
FROM
(
    SELECT DISTINCT log_topic, log_partition
    FROM bursar.closed_months FINAL
    ARRAY JOIN log_topics AS log_topic, log_partitions AS log_partition
) AS p
CROSS JOIN (SELECT * FROM bursar.closed_months FINAL) AS m
GROUP BY p.log_topic, p.log_partition
COMMENT 'Where months were closed in each partition of the log';

-- Holds that expired in a month and were replaced by the truth after it was closed: the month keeps the charge, a later
-- one takes it back and books the truth.
CREATE OR REPLACE VIEW bursar.late_truths
(
    `hold_month` Date COMMENT 'Month the expired hold is booked in',
    `truth_month` Date COMMENT 'Later month in which it is taken back and the true figure is booked',
    `request_id` String COMMENT 'UUIDv7 of the request',
    `started_at` DateTime64(3, 'UTC') COMMENT 'When the edge admitted the request, UTC',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `customer` LowCardinality(String) COMMENT 'Customer\'s name as of then',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s name as of then',
    `user_id` String COMMENT 'Person\'s id',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s name as of then',
    `project` LowCardinality(String) COMMENT 'Project; empty: the request named none',
    `repository` LowCardinality(String) COMMENT 'Repository; empty: the request named none',
    `environment` LowCardinality(String) COMMENT 'Environment; empty: the request named none',
    `cost_center` LowCardinality(String) COMMENT 'Cost centre; empty: the request named none',
    `provider` LowCardinality(String) COMMENT 'Provider that bills',
    `provider_credential` LowCardinality(String) COMMENT 'Reference of the credential used (never its value)',
    `model` LowCardinality(String) COMMENT 'Model that served',
    `speed` LowCardinality(String) COMMENT 'Speed asked for or served (fast)',
    `service_tier` LowCardinality(String) COMMENT 'Service tier that served',
    `inference_geo` LowCardinality(String) COMMENT 'Region the inference ran in',
    `outcome` LowCardinality(String) COMMENT 'completed, interrupted, unreadable, unknown, expired, upstream_error or not_sent',
    `estimated` Bool COMMENT 'The charge is an estimate, not the provider\'s own count',
    `billing` LowCardinality(String) COMMENT 'metered: on our bill; subscription, customer, imported: not on our bill, shown at list price',
    `input_tokens` Nullable(UInt64) COMMENT 'Input tokens, cached ones excluded; NULL: unknown',
    `cache_read_tokens` Nullable(UInt64) COMMENT 'Tokens read from the cache; NULL: unknown',
    `cache_write_5m_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 5 minute cache; NULL: unknown',
    `cache_write_1h_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 1 hour cache; NULL: unknown',
    `output_tokens` Nullable(UInt64) COMMENT 'Output tokens, thinking included; NULL: unknown',
    `thinking_tokens` Nullable(UInt64) COMMENT 'Thinking tokens, part of output_tokens; NULL: unknown',
    `web_searches` Nullable(UInt64) COMMENT 'Web searches; NULL: unknown',
    `cost_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars',
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `log_topic` LowCardinality(String) COMMENT 'Topic the event was read from',
    `log_partition` UInt32 COMMENT 'Partition the event was read from',
    `log_offset` UInt64 COMMENT 'Offset the event was read at'
)
AS SELECT
    x.hold_month AS hold_month,
    greatest(toStartOfMonth(toDate(e.started_at)), if(c.log_topic = '',
        ifNull(addMonths((SELECT max(month) FROM bursar.closed_months), 1), toDate(0)),
        arrayMax(arrayPushBack(arrayMap((m, b) -> if(e.log_offset >= b, addMonths(m, 1), toDate(0)), c.months, c.bounds), toDate(0))))) AS truth_month,
    x.request_id AS request_id, x.started_at AS started_at, x.customer_id AS customer_id, x.customer AS customer, x.team_id AS team_id, x.team AS team, x.user_id AS user_id, x.virtual_key_id AS virtual_key_id, x.virtual_key AS virtual_key, x.project AS project, x.repository AS repository, x.environment AS environment, x.cost_center AS cost_center, x.provider AS provider, x.provider_credential AS provider_credential, x.model AS model, x.speed AS speed, x.service_tier AS service_tier, x.inference_geo AS inference_geo, x.outcome AS outcome, x.estimated AS estimated, x.billing AS billing, x.input_tokens AS input_tokens, x.cache_read_tokens AS cache_read_tokens, x.cache_write_5m_tokens AS cache_write_5m_tokens, x.cache_write_1h_tokens AS cache_write_1h_tokens, x.output_tokens AS output_tokens, x.thinking_tokens AS thinking_tokens, x.web_searches AS web_searches, x.cost_nusd AS cost_nusd, x.list_cost_nusd AS list_cost_nusd, x.price_book_id AS price_book_id, x.log_topic AS log_topic, x.log_partition AS log_partition, x.log_offset AS log_offset
FROM
(
    SELECT x.*, greatest(toStartOfMonth(toDate(x.started_at)), if(c.log_topic = '',
            ifNull(addMonths((SELECT max(month) FROM bursar.closed_months), 1), toDate(0)),
            arrayMax(arrayPushBack(arrayMap((m, b) -> if(x.log_offset >= b, addMonths(m, 1), toDate(0)), c.months, c.bounds), toDate(0))))) AS hold_month
    FROM (SELECT * FROM bursar.expired_events FINAL) AS x
    LEFT JOIN bursar.log_closes AS c ON c.log_topic = x.log_topic AND c.log_partition = x.log_partition
) AS x
INNER JOIN
(
    SELECT request_id, started_at, log_topic, log_partition, log_offset FROM bursar.usage_events FINAL
    WHERE rank = 2 AND request_id IN (SELECT request_id FROM bursar.expired_events)
) AS e ON e.request_id = x.request_id
LEFT JOIN bursar.log_closes AS c ON c.log_topic = e.log_topic AND c.log_partition = e.log_partition
WHERE truth_month > hold_month
COMMENT 'Expired holds whose true cost arrived after their month was closed';

-- Every charge, booked: sums over belongs_to_month are those of bursar.usage, sums over booked_month the books. Refused
-- requests cost nothing and the simulator spends no money: both are left out.
CREATE OR REPLACE VIEW bursar.charges
(
    `booked_month` Date COMMENT 'First day of the UTC month the charge is booked in: what is billed',
    `belongs_to_month` Date COMMENT 'First day of the UTC month the request was made in; before booked_month: it came, or was corrected, after that month was closed',
    `charge_kind` LowCardinality(String) COMMENT 'usage; expired_hold: a guess, the truth never arrived before the close; correction: a charge taken back or put right',
    `requests` Int8 COMMENT '1; of what is taken back -1, of an amount added to a request 0',
    `request_id` String COMMENT 'UUIDv7 of the request',
    `started_at` DateTime64(3, 'UTC') COMMENT 'When the edge admitted the request, UTC',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `customer` LowCardinality(String) COMMENT 'Customer\'s name as of then',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s name as of then',
    `user_id` String COMMENT 'Person\'s id',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s name as of then',
    `project` LowCardinality(String) COMMENT 'Project; empty: the request named none',
    `repository` LowCardinality(String) COMMENT 'Repository; empty: the request named none',
    `environment` LowCardinality(String) COMMENT 'Environment; empty: the request named none',
    `cost_center` LowCardinality(String) COMMENT 'Cost centre; empty: the request named none',
    `provider` LowCardinality(String) COMMENT 'Provider that bills',
    `provider_credential` LowCardinality(String) COMMENT 'Reference of the credential used (never its value)',
    `model` LowCardinality(String) COMMENT 'Model that served',
    `speed` LowCardinality(String) COMMENT 'Speed asked for or served (fast)',
    `service_tier` LowCardinality(String) COMMENT 'Service tier that served',
    `inference_geo` LowCardinality(String) COMMENT 'Region the inference ran in',
    `outcome` LowCardinality(String) COMMENT 'completed, interrupted, unreadable, unknown, expired, upstream_error or not_sent',
    `estimated` Bool COMMENT 'The charge is an estimate, not the provider\'s own count',
    `billing` LowCardinality(String) COMMENT 'metered: on our bill; subscription, customer, imported: not on our bill, shown at list price',
    `input_tokens` Nullable(Int64) COMMENT 'Input tokens, cached ones excluded; NULL: unknown; below zero where a charge is taken back',
    `cache_read_tokens` Nullable(Int64) COMMENT 'Tokens read from the cache; NULL: unknown; below zero where a charge is taken back',
    `cache_write_5m_tokens` Nullable(Int64) COMMENT 'Tokens written to the 5 minute cache; NULL: unknown; below zero where a charge is taken back',
    `cache_write_1h_tokens` Nullable(Int64) COMMENT 'Tokens written to the 1 hour cache; NULL: unknown; below zero where a charge is taken back',
    `output_tokens` Nullable(Int64) COMMENT 'Output tokens, thinking included; NULL: unknown; below zero where a charge is taken back',
    `thinking_tokens` Nullable(Int64) COMMENT 'Thinking tokens, part of output_tokens; NULL: unknown; below zero where a charge is taken back',
    `web_searches` Nullable(Int64) COMMENT 'Web searches; NULL: unknown; below zero where a charge is taken back',
    `cost_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars',
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `log_topic` LowCardinality(String) COMMENT 'Topic the event was read from',
    `log_partition` UInt32 COMMENT 'Partition the event was read from',
    `log_offset` UInt64 COMMENT 'Offset the event was read at'
)
AS SELECT
    greatest(toStartOfMonth(toDate(e.started_at)), if(c.log_topic = '',
        ifNull(addMonths((SELECT max(month) FROM bursar.closed_months), 1), toDate(0)),
        arrayMax(arrayPushBack(arrayMap((m, b) -> if(e.log_offset >= b, addMonths(m, 1), toDate(0)), c.months, c.bounds), toDate(0))))) AS booked_month,
    toStartOfMonth(toDate(e.started_at)) AS belongs_to_month,
    multiIf(e.request_id IN (SELECT request_id FROM bursar.late_truths), 'correction', e.outcome = 'expired', 'expired_hold', 'usage') AS charge_kind,
    toInt8(1) AS requests,
    e.request_id AS request_id,
    e.started_at AS started_at,
    e.customer_id AS customer_id,
    e.customer AS customer,
    e.team_id AS team_id,
    e.team AS team,
    e.user_id AS user_id,
    e.virtual_key_id AS virtual_key_id,
    e.virtual_key AS virtual_key,
    e.project AS project,
    e.repository AS repository,
    e.environment AS environment,
    e.cost_center AS cost_center,
    e.provider AS provider,
    e.provider_credential AS provider_credential,
    e.model AS model,
    e.speed AS speed,
    e.service_tier AS service_tier,
    e.inference_geo AS inference_geo,
    e.outcome AS outcome,
    e.estimated AS estimated,
    e.billing AS billing,
    CAST(e.input_tokens AS Nullable(Int64)) AS input_tokens,
    CAST(e.cache_read_tokens AS Nullable(Int64)) AS cache_read_tokens,
    CAST(e.cache_write_5m_tokens AS Nullable(Int64)) AS cache_write_5m_tokens,
    CAST(e.cache_write_1h_tokens AS Nullable(Int64)) AS cache_write_1h_tokens,
    CAST(e.output_tokens AS Nullable(Int64)) AS output_tokens,
    CAST(e.thinking_tokens AS Nullable(Int64)) AS thinking_tokens,
    CAST(e.web_searches AS Nullable(Int64)) AS web_searches,
    e.cost_nusd AS cost_nusd,
    e.list_cost_nusd AS list_cost_nusd,
    e.price_book_id AS price_book_id,
    e.log_topic AS log_topic,
    e.log_partition AS log_partition,
    e.log_offset AS log_offset
FROM (SELECT * FROM bursar.usage_events FINAL WHERE outcome != 'refused' AND provider != 'simulator') AS e
LEFT JOIN bursar.log_closes AS c ON c.log_topic = e.log_topic AND c.log_partition = e.log_partition
UNION ALL
SELECT
    x.hold_month AS booked_month,
    toStartOfMonth(toDate(x.started_at)) AS belongs_to_month,
    'expired_hold' AS charge_kind,
    toInt8(1) AS requests,
    x.request_id AS request_id,
    x.started_at AS started_at,
    x.customer_id AS customer_id,
    x.customer AS customer,
    x.team_id AS team_id,
    x.team AS team,
    x.user_id AS user_id,
    x.virtual_key_id AS virtual_key_id,
    x.virtual_key AS virtual_key,
    x.project AS project,
    x.repository AS repository,
    x.environment AS environment,
    x.cost_center AS cost_center,
    x.provider AS provider,
    x.provider_credential AS provider_credential,
    x.model AS model,
    x.speed AS speed,
    x.service_tier AS service_tier,
    x.inference_geo AS inference_geo,
    x.outcome AS outcome,
    x.estimated AS estimated,
    x.billing AS billing,
    CAST(x.input_tokens AS Nullable(Int64)) AS input_tokens,
    CAST(x.cache_read_tokens AS Nullable(Int64)) AS cache_read_tokens,
    CAST(x.cache_write_5m_tokens AS Nullable(Int64)) AS cache_write_5m_tokens,
    CAST(x.cache_write_1h_tokens AS Nullable(Int64)) AS cache_write_1h_tokens,
    CAST(x.output_tokens AS Nullable(Int64)) AS output_tokens,
    CAST(x.thinking_tokens AS Nullable(Int64)) AS thinking_tokens,
    CAST(x.web_searches AS Nullable(Int64)) AS web_searches,
    x.cost_nusd AS cost_nusd,
    x.list_cost_nusd AS list_cost_nusd,
    x.price_book_id AS price_book_id,
    x.log_topic AS log_topic,
    x.log_partition AS log_partition,
    x.log_offset AS log_offset
FROM bursar.late_truths AS x
WHERE x.provider != 'simulator'
UNION ALL
SELECT
    x.truth_month AS booked_month,
    toStartOfMonth(toDate(x.started_at)) AS belongs_to_month,
    'correction' AS charge_kind,
    toInt8(-1) AS requests,
    x.request_id AS request_id,
    x.started_at AS started_at,
    x.customer_id AS customer_id,
    x.customer AS customer,
    x.team_id AS team_id,
    x.team AS team,
    x.user_id AS user_id,
    x.virtual_key_id AS virtual_key_id,
    x.virtual_key AS virtual_key,
    x.project AS project,
    x.repository AS repository,
    x.environment AS environment,
    x.cost_center AS cost_center,
    x.provider AS provider,
    x.provider_credential AS provider_credential,
    x.model AS model,
    x.speed AS speed,
    x.service_tier AS service_tier,
    x.inference_geo AS inference_geo,
    x.outcome AS outcome,
    x.estimated AS estimated,
    x.billing AS billing,
    -CAST(x.input_tokens AS Nullable(Int64)) AS input_tokens,
    -CAST(x.cache_read_tokens AS Nullable(Int64)) AS cache_read_tokens,
    -CAST(x.cache_write_5m_tokens AS Nullable(Int64)) AS cache_write_5m_tokens,
    -CAST(x.cache_write_1h_tokens AS Nullable(Int64)) AS cache_write_1h_tokens,
    -CAST(x.output_tokens AS Nullable(Int64)) AS output_tokens,
    -CAST(x.thinking_tokens AS Nullable(Int64)) AS thinking_tokens,
    -CAST(x.web_searches AS Nullable(Int64)) AS web_searches,
    -x.cost_nusd AS cost_nusd,
    -x.list_cost_nusd AS list_cost_nusd,
    x.price_book_id AS price_book_id,
    x.log_topic AS log_topic,
    x.log_partition AS log_partition,
    x.log_offset AS log_offset
FROM bursar.late_truths AS x
WHERE x.provider != 'simulator'
UNION ALL
SELECT
    greatest(toStartOfMonth(toDate(e.started_at)), if(c.log_topic = '',
        ifNull(addMonths((SELECT max(month) FROM bursar.closed_months), 1), toDate(0)),
        arrayMax(arrayPushBack(arrayMap((m, b) -> if(k.log_offset >= b, addMonths(m, 1), toDate(0)), c.months, c.bounds), toDate(0))))) AS booked_month,
    toStartOfMonth(toDate(e.started_at)) AS belongs_to_month,
    'correction' AS charge_kind,
    toInt8(0) AS requests,
    e.request_id AS request_id,
    e.started_at AS started_at,
    e.customer_id AS customer_id,
    e.customer AS customer,
    e.team_id AS team_id,
    e.team AS team,
    e.user_id AS user_id,
    e.virtual_key_id AS virtual_key_id,
    e.virtual_key AS virtual_key,
    e.project AS project,
    e.repository AS repository,
    e.environment AS environment,
    e.cost_center AS cost_center,
    e.provider AS provider,
    e.provider_credential AS provider_credential,
    e.model AS model,
    e.speed AS speed,
    e.service_tier AS service_tier,
    e.inference_geo AS inference_geo,
    e.outcome AS outcome,
    e.estimated AS estimated,
    e.billing AS billing,
    CAST(k.input_tokens AS Nullable(Int64)) AS input_tokens,
    CAST(k.cache_read_tokens AS Nullable(Int64)) AS cache_read_tokens,
    CAST(k.cache_write_5m_tokens AS Nullable(Int64)) AS cache_write_5m_tokens,
    CAST(k.cache_write_1h_tokens AS Nullable(Int64)) AS cache_write_1h_tokens,
    CAST(k.output_tokens AS Nullable(Int64)) AS output_tokens,
    CAST(k.thinking_tokens AS Nullable(Int64)) AS thinking_tokens,
    CAST(k.web_searches AS Nullable(Int64)) AS web_searches,
    k.cost_nusd AS cost_nusd,
    k.list_cost_nusd AS list_cost_nusd,
    e.price_book_id AS price_book_id,
    k.log_topic AS log_topic,
    k.log_partition AS log_partition,
    k.log_offset AS log_offset
FROM
(
    SELECT *, 'bursar.corrections.v1' AS log_topic, toUInt32(0) AS log_partition FROM bursar.corrections FINAL
) AS k
INNER JOIN
(
    SELECT * FROM bursar.usage_events FINAL
    WHERE outcome != 'refused' AND provider != 'simulator' AND request_id IN (SELECT request_id FROM bursar.corrections)
) AS e ON e.request_id = k.request_id
LEFT JOIN bursar.log_closes AS c ON c.log_topic = k.log_topic AND c.log_partition = k.log_partition
COMMENT 'One row per charge: the month it is booked in, the month it belongs to, what kind it is';

-- What is charged beside requests. A split moves a shared key's cost, group by group, to those who use it: largest
-- remainder, so its rows sum to nothing to the nano-dollar. Fees and commitments are rows of each month they are for.
CREATE OR REPLACE VIEW bursar.allocated_charges
(
    `booked_month` Date COMMENT 'First day of the UTC month it is booked in',
    `belongs_to_month` Date COMMENT 'First day of the UTC month the divided requests were made in; of fees and commitments booked_month',
    `customer_id` String COMMENT 'Customer\'s id; empty: none',
    `customer` String COMMENT 'Customer\'s name',
    `team_id` String COMMENT 'Team\'s id; empty: none',
    `team` String COMMENT 'Team\'s name',
    `project` String COMMENT 'Project of the divided requests',
    `cost_center` String COMMENT 'Cost centre: the part\'s own, else that of the divided requests',
    `provider` String COMMENT 'Provider that bills',
    `billing` String COMMENT 'metered',
    `model` String COMMENT 'Model of the divided requests; empty for fees and commitments',
    `charge_kind` String COMMENT 'split (what is moved: its rows sum to nothing), fee or commitment',
    `allocation_id` String COMMENT 'The allocation it is charged by',
    `allocation` String COMMENT 'Its name',
    `virtual_key_id` String COMMENT 'The shared key of a split',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars; below zero where it is moved away',
    `cost_nusd` Int64 COMMENT 'Billed cost, nano-dollars; below zero where it is moved away'
)
AS SELECT
    booked_month,
    belongs_to_month,
    part.1 AS customer_id,
    part.2 AS customer,
    part.3 AS team_id,
    part.4 AS team,
    project,
    if(part.5 = '', cost_center, part.5) AS cost_center,
    provider,
    billing,
    model,
    'split' AS charge_kind,
    allocation_id,
    allocation,
    virtual_key_id,
    part.6 AS list_cost_nusd,
    part.7 AS cost_nusd
FROM
(
    SELECT
        g.*,
        a.allocation_id AS allocation_id,
        a.name AS allocation,
        arrayPushBack(a.part_weights, toUInt64(1000000 - arraySum(a.part_weights))) AS weights,
        arrayMap(w -> toInt128(abs(g.list_nusd)) * w, weights) AS list_raw,
        arraySort((i, r) -> (-toInt64(r % 1000000), i), arrayEnumerate(list_raw), list_raw) AS list_order,
        arrayMap((r, i) -> toInt64(sign(g.list_nusd) * (intDiv(r, 1000000) + (indexOf(list_order, i) <= toInt128(abs(g.list_nusd)) - arraySum(each -> intDiv(each, 1000000), list_raw)))), list_raw, arrayEnumerate(list_raw)) AS list_shares,
        arrayMap(w -> toInt128(abs(g.billed_nusd)) * w, weights) AS billed_raw,
        arraySort((i, r) -> (-toInt64(r % 1000000), i), arrayEnumerate(billed_raw), billed_raw) AS billed_order,
        arrayMap((r, i) -> toInt64(sign(g.billed_nusd) * (intDiv(r, 1000000) + (indexOf(billed_order, i) <= toInt128(abs(g.billed_nusd)) - arraySum(each -> intDiv(each, 1000000), billed_raw)))), billed_raw, arrayEnumerate(billed_raw)) AS billed_shares,
        arrayConcat(
            arrayMap(i -> (a.part_customer_ids[i], a.part_customers[i], a.part_team_ids[i], a.part_teams[i], a.part_cost_centers[i], list_shares[i], billed_shares[i]), arrayEnumerate(a.part_weights)),
            [(g.customer_id, g.customer, g.team_id, g.team, '', list_shares[-1] - g.list_nusd, billed_shares[-1] - g.billed_nusd)]) AS parts
    FROM
    (
        SELECT
            booked_month, belongs_to_month, virtual_key_id, toString(customer_id) AS customer_id,
            toString(argMax(customer, (started_at, request_id))) AS customer, toString(team_id) AS team_id,
            toString(argMax(team, (started_at, request_id))) AS team, toString(project) AS project,
            toString(cost_center) AS cost_center, toString(provider) AS provider, toString(billing) AS billing,
            toString(model) AS model, sum(list_cost_nusd) AS list_nusd, sum(cost_nusd) AS billed_nusd
        FROM bursar.charges
        WHERE billing = 'metered'
            AND virtual_key_id IN (SELECT virtual_key_id FROM bursar.allocations FINAL WHERE kind = 'split' AND NOT deleted)
        GROUP BY booked_month, belongs_to_month, virtual_key_id, customer_id, team_id, project, cost_center, provider, billing, model
    ) AS g
    INNER JOIN (SELECT * FROM bursar.allocations FINAL WHERE kind = 'split' AND NOT deleted) AS a
        ON a.virtual_key_id = g.virtual_key_id
    WHERE g.booked_month >= a.from_month AND (a.to_month IS NULL OR g.booked_month <= a.to_month)
)
ARRAY JOIN parts AS part
WHERE part.6 != 0 OR part.7 != 0
UNION ALL
SELECT
    month AS booked_month,
    month AS belongs_to_month,
    part.1 AS customer_id,
    part.2 AS customer,
    part.3 AS team_id,
    part.4 AS team,
    '' AS project,
    part.5 AS cost_center,
    toString(provider) AS provider,
    'metered' AS billing,
    '' AS model,
    toString(kind) AS charge_kind,
    allocation_id,
    name AS allocation,
    '' AS virtual_key_id,
    part.6 AS list_cost_nusd,
    part.6 AS cost_nusd
FROM
(
    SELECT *,
        arrayMap(i -> addMonths(from_month, i), range(toUInt32(greatest(0, 1 + dateDiff('month', from_month, least(ifNull(to_month, today()), toDate(now('UTC')))))))) AS months,
        arrayZip(part_customer_ids, part_customers, part_team_ids, part_teams, part_cost_centers, part_amounts_nusd) AS parts
    FROM bursar.allocations FINAL
    WHERE kind != 'split' AND NOT deleted
)
ARRAY JOIN months AS month
ARRAY JOIN parts AS part
WHERE part.6 != 0
COMMENT 'Shared keys divided, fees and commitments: rows of their own beside what requests cost';

-- The chargeback as booked: what a statement says. Sums of a month's metered rows without fees and commitments are what
-- the budgets were charged, as far as it was known when the month was closed, and what came later of months before.
CREATE OR REPLACE VIEW bursar.booked_monthly
(
    `booked_month` Date COMMENT 'First day of the UTC month it is booked in: what is billed',
    `belongs_to_month` Date COMMENT 'First day of the UTC month of the requests; before booked_month: they came, or were corrected, after that month was closed',
    `customer_id` String COMMENT 'Customer\'s id; empty: none',
    `customer` String COMMENT 'Customer\'s latest name of the month',
    `team_id` String COMMENT 'Team\'s id; empty: none',
    `team` String COMMENT 'Team\'s latest name of the month',
    `project` String COMMENT 'Project; empty: none was named',
    `cost_center` String COMMENT 'Cost centre; empty: none was named',
    `provider` String COMMENT 'Provider that bills',
    `billing` String COMMENT 'metered: on our bill; subscription, customer, imported: not on our bill, shown at list price',
    `model` String COMMENT 'Model that served; empty for fees and commitments',
    `charge_kind` String COMMENT 'usage, expired_hold (a guess), correction, split, fee or commitment',
    `allocation_id` String COMMENT 'Of split, fee and commitment: the allocation it is charged by',
    `allocation` String COMMENT 'Its name',
    `requests` Int64 COMMENT 'Requests',
    `input_tokens` Int64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` Int64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` Int64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` Int64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` Int64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` Int64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` Int64 COMMENT 'Sum of the known web_searches',
    `list_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars',
    `billed_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars',
    `list_cost_usd` Decimal(38, 9) COMMENT 'list_nusd in dollars, exact',
    `billed_cost_usd` Decimal(38, 9) COMMENT 'billed_nusd in dollars, exact',
    `estimated_cost_usd` Decimal(38, 9) COMMENT 'Part of billed_cost_usd that is an estimate, dollars'
)
AS SELECT
    c.booked_month AS booked_month,
    c.belongs_to_month AS belongs_to_month,
    toString(c.customer_id) AS customer_id,
    toString(argMax(c.customer, (c.started_at, c.request_id))) AS customer,
    toString(c.team_id) AS team_id,
    toString(argMax(c.team, (c.started_at, c.request_id))) AS team,
    toString(c.project) AS project,
    toString(c.cost_center) AS cost_center,
    toString(c.provider) AS provider,
    toString(c.billing) AS billing,
    toString(c.model) AS model,
    toString(c.charge_kind) AS charge_kind,
    '' AS allocation_id,
    '' AS allocation,
    sum(toInt64(c.requests)) AS requests,
    ifNull(sum(c.input_tokens), 0) AS input_tokens,
    ifNull(sum(c.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(c.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(c.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(c.output_tokens), 0) AS output_tokens,
    ifNull(sum(c.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(c.web_searches), 0) AS web_searches,
    sum(c.list_cost_nusd) AS list_nusd,
    sum(c.cost_nusd) AS billed_nusd,
    toDecimal128(sum(c.list_cost_nusd), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sum(c.cost_nusd), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(c.cost_nusd, c.estimated), 9) / 1000000000 AS estimated_cost_usd
FROM bursar.charges AS c
GROUP BY c.booked_month, c.belongs_to_month, c.customer_id, c.team_id, c.project, c.cost_center, c.provider, c.billing, c.model, c.charge_kind
UNION ALL
SELECT
    a.booked_month AS booked_month,
    a.belongs_to_month AS belongs_to_month,
    a.customer_id AS customer_id,
    argMax(a.customer, a.belongs_to_month) AS customer,
    a.team_id AS team_id,
    argMax(a.team, a.belongs_to_month) AS team,
    a.project AS project,
    a.cost_center AS cost_center,
    a.provider AS provider,
    a.billing AS billing,
    a.model AS model,
    a.charge_kind AS charge_kind,
    a.allocation_id AS allocation_id,
    any(a.allocation) AS allocation,
    toInt64(0) AS requests,
    toInt64(0) AS input_tokens,
    toInt64(0) AS cache_read_tokens,
    toInt64(0) AS cache_write_5m_tokens,
    toInt64(0) AS cache_write_1h_tokens,
    toInt64(0) AS output_tokens,
    toInt64(0) AS thinking_tokens,
    toInt64(0) AS web_searches,
    sum(a.list_cost_nusd) AS list_nusd,
    sum(a.cost_nusd) AS billed_nusd,
    toDecimal128(sum(a.list_cost_nusd), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sum(a.cost_nusd), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(0, 9) AS estimated_cost_usd
FROM bursar.allocated_charges AS a
GROUP BY a.booked_month, a.belongs_to_month, a.customer_id, a.team_id, a.project, a.cost_center, a.provider, a.billing, a.model, a.charge_kind, a.allocation_id
COMMENT 'Charges per month booked, month they belong to, customer, team, project, cost centre, model and kind of charge';

CREATE OR REPLACE VIEW bursar.booked_lines
(
    `booked_month` Date COMMENT 'First day of the UTC month',
    `line` String COMMENT 'A row of booked_monthly: ids and figures, tabs between them'
)
AS SELECT
    booked_month,
    arrayStringConcat([toString(belongs_to_month), customer_id, team_id, project, cost_center, provider, billing, model, charge_kind, allocation_id, toString(requests), toString(input_tokens), toString(cache_read_tokens), toString(cache_write_5m_tokens), toString(cache_write_1h_tokens), toString(output_tokens), toString(thinking_tokens), toString(web_searches), toString(list_nusd), toString(billed_nusd)], '\t') AS line
FROM bursar.booked_monthly
COMMENT 'What a month\'s checksum is made of: its lines in the order of their bytes, each with a line feed';

CREATE OR REPLACE VIEW bursar.month_checksums
(
    `booked_month` Date COMMENT 'First day of the UTC month',
    `rows` UInt64 COMMENT 'Rows of booked_monthly',
    `checksum` String COMMENT 'SHA-256 (hex) of the month\'s lines; of a closed month that of closed_months'
)
AS SELECT
    booked_month,
    count() AS rows,
    lower(hex(SHA256(arrayStringConcat(arrayMap(each -> concat(each, '\n'), arraySort(groupArray(line))))))) AS checksum
FROM bursar.booked_lines
GROUP BY booked_month
COMMENT 'One checksum per month, computed anew at each question';
