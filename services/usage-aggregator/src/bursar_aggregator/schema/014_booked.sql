-- The books of closed months, stored: made once from the requests when a month has been closed, compared with the checksum
-- it was closed with, and read from then on in place of the requests. What is alike is one row, a UTC day at a time, so
-- that statements, exports, allocations and checksums come to the same to the nano-dollar and to the byte.

CREATE TABLE IF NOT EXISTS bursar.booked_rows
(
    `closed_month` Date COMMENT 'First day of the month whose close fixed the row',
    `generation` UInt64 COMMENT 'Which making the row is of; only that of booked_months counts',
    `booked_month` Date COMMENT 'First day of the UTC month the charges are booked in: what is billed',
    `belongs_to_month` Date COMMENT 'First day of the UTC month the requests were made in',
    `day` Date COMMENT 'UTC day the requests were made on',
    `charge_kind` LowCardinality(String) COMMENT 'usage, expired_hold or correction, as in charges',
    `request_id` String COMMENT 'Of a correction: the request; empty where the row is of many',
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
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `prompt_tokens` UInt64 COMMENT 'Prompt of the longest request, caches included: all of a row are in one tier of prices',
    `charges` UInt64 COMMENT 'Charges that the row is made of',
    `requests` Int64 COMMENT 'Requests: without what is only added to one, less what is taken back',
    `input_tokens` Nullable(Int64) COMMENT 'Sum of the known input_tokens; NULL: none is known',
    `cache_read_tokens` Nullable(Int64) COMMENT 'Sum of the known cache_read_tokens; NULL: none is known',
    `cache_write_5m_tokens` Nullable(Int64) COMMENT 'Sum of the known cache_write_5m_tokens; NULL: none is known',
    `cache_write_1h_tokens` Nullable(Int64) COMMENT 'Sum of the known cache_write_1h_tokens; NULL: none is known',
    `output_tokens` Nullable(Int64) COMMENT 'Sum of the known output_tokens; NULL: none is known',
    `thinking_tokens` Nullable(Int64) COMMENT 'Sum of the known thinking_tokens; NULL: none is known',
    `web_searches` Nullable(Int64) COMMENT 'Sum of the known web_searches; NULL: none is known',
    `cost_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars',
    `first_at` DateTime64(3, 'UTC') COMMENT 'When the first request was admitted, UTC',
    `last_at` DateTime64(3, 'UTC') COMMENT 'When the last request was admitted, UTC',
    `last_request_id` String COMMENT 'The last request: the highest id of those admitted at last_at'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(closed_month)
ORDER BY (booked_month, belongs_to_month, day, team_id, virtual_key_id, model)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Books of closed months; rows of former makings until they are cleared away: query booked_charges instead';

CREATE TABLE IF NOT EXISTS bursar.booked_months
(
    `month` Date COMMENT 'First day of a month that was closed, and whose books are stored',
    `generation` UInt64 COMMENT 'Of the rows in booked_rows that count',
    `rows` UInt64 COMMENT 'Rows in booked_rows',
    `charges` UInt64 COMMENT 'Charges they are made of',
    `checksum` String COMMENT 'SHA-256 (hex) of the month\'s lines, as of the close',
    `stored_at` DateTime64(3, 'UTC') COMMENT 'When, UTC'
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY month
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Months whose books are stored in booked_rows; later ones are computed from requests';

-- Only its name and kind: parts that are there are read as a whole until they are merged.
ALTER TABLE bursar.usage_events
    ADD INDEX IF NOT EXISTS log_offset_index log_offset TYPE minmax GRANULARITY 1;

-- Where the two ways to read a month meet. Everything before `stored_to` is in booked_rows, but for what the log says came
-- after the closes; everything from `closed_to` on is booked in its own month.
CREATE OR REPLACE VIEW bursar.booked_horizons
(
    `stored_to` Date COMMENT 'First day of the month after the last one whose books are stored; 1970: none is',
    `closed_to` Date COMMENT 'First day of the month after the last one that is closed; 1970: none is'
)
AS SELECT
    (SELECT if(count() = 0, toDate(0), addMonths(max(m.month), 1)) FROM bursar.booked_months AS m) AS stored_to,
    (SELECT if(count() = 0, toDate(0), addMonths(max(m.month), 1)) FROM bursar.closed_months AS m) AS closed_to
COMMENT 'How far months are stored, and closed';

-- As in 010, found by the order of both tables.
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
    WHERE rank = 2 AND (toDate(started_at), virtual_key_id, request_id) IN (SELECT toDate(started_at), virtual_key_id, request_id FROM bursar.expired_events)
) AS e ON e.request_id = x.request_id
LEFT JOIN bursar.log_closes AS c ON c.log_topic = e.log_topic AND c.log_partition = e.log_partition
WHERE truth_month > hold_month
COMMENT 'Expired holds whose true cost arrived after their month was closed';

-- Holds that expired, and the month each is booked in.
CREATE OR REPLACE VIEW bursar.expired_booked
(
    `hold_month` Date COMMENT 'Month the expired hold is booked in',
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
    greatest(toStartOfMonth(toDate(x.started_at)), if(c.log_topic = '',
        ifNull(addMonths((SELECT max(month) FROM bursar.closed_months), 1), toDate(0)),
        arrayMax(arrayPushBack(arrayMap((m, b) -> if(x.log_offset >= b, addMonths(m, 1), toDate(0)), c.months, c.bounds), toDate(0))))) AS hold_month,
    x.*
FROM (SELECT * FROM bursar.expired_events FINAL) AS x
LEFT JOIN bursar.log_closes AS c ON c.log_topic = x.log_topic AND c.log_partition = x.log_partition
COMMENT 'Every expired hold, booked';

-- Charges of the months that are not stored: of months that no close has reached the requests as they are; before, what
-- a close has fixed but nobody has stored yet, and what came after the last one. The rules are those of charges (010).
CREATE OR REPLACE VIEW bursar.open_charges
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
    toStartOfMonth(toDate(e.started_at)) AS booked_month,
    toStartOfMonth(toDate(e.started_at)) AS belongs_to_month,
    if(e.outcome = 'expired', 'expired_hold', 'usage') AS charge_kind,
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
FROM (SELECT request_id, started_at, customer_id, customer, team_id, team, user_id, virtual_key_id, virtual_key, project, repository, environment, cost_center, provider, provider_credential, model, speed, service_tier, inference_geo, outcome, estimated, billing, price_book_id, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, cost_nusd, list_cost_nusd, log_topic, log_partition, log_offset FROM bursar.usage_events FINAL WHERE outcome != 'refused' AND provider != 'simulator' AND started_at >= toDateTime64((SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.closed_months), 3, 'UTC')) AS e
UNION ALL
SELECT
    greatest(toStartOfMonth(toDate(e.started_at)), if(c.log_topic = '',
        ifNull(addMonths((SELECT max(month) FROM bursar.closed_months), 1), toDate(0)),
        arrayMax(arrayPushBack(arrayMap((m, b) -> if(e.log_offset >= b, addMonths(m, 1), toDate(0)), c.months, c.bounds), toDate(0))))) AS booked_month,
    toStartOfMonth(toDate(e.started_at)) AS belongs_to_month,
    multiIf(e.rank = 2 AND x.request_id != '' AND booked_month > x.hold_month, 'correction', e.outcome = 'expired', 'expired_hold', 'usage') AS charge_kind,
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
FROM
(
    SELECT request_id, started_at, customer_id, customer, team_id, team, user_id, virtual_key_id, virtual_key, project, repository, environment, cost_center, provider, provider_credential, model, speed, service_tier, inference_geo, outcome, estimated, billing, price_book_id, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, cost_nusd, list_cost_nusd, log_topic, log_partition, log_offset, rank FROM bursar.usage_events FINAL
    WHERE outcome != 'refused' AND provider != 'simulator' AND started_at < toDateTime64((SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.closed_months), 3, 'UTC') AND
        (
            started_at >= toDateTime64((SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months), 3, 'UTC') OR (toDate(started_at), virtual_key_id, request_id) IN
            (
                SELECT toDate(started_at), virtual_key_id, request_id FROM bursar.usage_events
                WHERE started_at < toDateTime64((SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months), 3, 'UTC')
                    AND log_offset >= (SELECT ifNull(min(bound), 0) FROM (SELECT arrayElement(bounds, indexOf(months, addMonths((SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months), -1))) AS bound FROM bursar.log_closes))
                    AND log_offset >= ifNull(arrayElement(
                        (SELECT groupArray(arrayElement(bounds, indexOf(months, addMonths((SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months), -1)))) FROM (SELECT * FROM bursar.log_closes ORDER BY log_topic, log_partition)),
                        indexOf((SELECT groupArray((toString(log_topic), log_partition)) FROM (SELECT * FROM bursar.log_closes ORDER BY log_topic, log_partition)), (toString(log_topic), log_partition))), 0)
            )
        )
) AS e
LEFT JOIN bursar.log_closes AS c ON c.log_topic = e.log_topic AND c.log_partition = e.log_partition
LEFT JOIN bursar.expired_booked AS x ON x.request_id = e.request_id
WHERE booked_month >= (SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months)
UNION ALL
SELECT
    at.1 AS booked_month,
    toStartOfMonth(toDate(x.started_at)) AS belongs_to_month,
    at.2 AS charge_kind,
    toInt8(at.3) AS requests,
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
    at.3 * CAST(x.input_tokens AS Nullable(Int64)) AS input_tokens,
    at.3 * CAST(x.cache_read_tokens AS Nullable(Int64)) AS cache_read_tokens,
    at.3 * CAST(x.cache_write_5m_tokens AS Nullable(Int64)) AS cache_write_5m_tokens,
    at.3 * CAST(x.cache_write_1h_tokens AS Nullable(Int64)) AS cache_write_1h_tokens,
    at.3 * CAST(x.output_tokens AS Nullable(Int64)) AS output_tokens,
    at.3 * CAST(x.thinking_tokens AS Nullable(Int64)) AS thinking_tokens,
    at.3 * CAST(x.web_searches AS Nullable(Int64)) AS web_searches,
    at.3 * x.cost_nusd AS cost_nusd,
    at.3 * x.list_cost_nusd AS list_cost_nusd,
    x.price_book_id AS price_book_id,
    x.log_topic AS log_topic,
    x.log_partition AS log_partition,
    x.log_offset AS log_offset
FROM
(
    SELECT x.*, greatest(toStartOfMonth(toDate(e.started_at)), if(c.log_topic = '',
        ifNull(addMonths((SELECT max(month) FROM bursar.closed_months), 1), toDate(0)),
        arrayMax(arrayPushBack(arrayMap((m, b) -> if(e.log_offset >= b, addMonths(m, 1), toDate(0)), c.months, c.bounds), toDate(0))))) AS truth_month
    FROM bursar.expired_booked AS x
    INNER JOIN
    (
        SELECT request_id, started_at, log_topic, log_partition, log_offset FROM bursar.usage_events FINAL
        WHERE rank = 2 AND (toDate(started_at), virtual_key_id, request_id) IN (SELECT toDate(started_at), virtual_key_id, request_id FROM bursar.expired_events)
    ) AS e ON e.request_id = x.request_id
    LEFT JOIN bursar.log_closes AS c ON c.log_topic = e.log_topic AND c.log_partition = e.log_partition
    WHERE truth_month > x.hold_month AND x.provider != 'simulator'
) AS x
ARRAY JOIN [(x.hold_month, 'expired_hold', 1), (x.truth_month, 'correction', -1)] AS at
WHERE at.1 >= (SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months)
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
    SELECT request_id, started_at, customer_id, customer, team_id, team, user_id, virtual_key_id, virtual_key, project, repository, environment, cost_center, provider, provider_credential, model, speed, service_tier, inference_geo, outcome, estimated, billing, price_book_id, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, cost_nusd, list_cost_nusd, log_topic, log_partition, log_offset FROM bursar.usage_events FINAL
    WHERE outcome != 'refused' AND provider != 'simulator' AND (toDate(started_at), virtual_key_id, request_id) IN
        (SELECT toDate(started_at), virtual_key_id, request_id FROM bursar.usage_events WHERE request_id IN (SELECT request_id FROM bursar.corrections))
) AS e ON e.request_id = k.request_id
LEFT JOIN bursar.log_closes AS c ON c.log_topic = k.log_topic AND c.log_partition = k.log_partition
WHERE booked_month >= (SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months)
COMMENT 'As charges, of months whose books are not stored yet: read where needed only';

-- What is booked: of stored months as they were stored, of others one row a charge. Sums over it are those of charges.
CREATE OR REPLACE VIEW bursar.booked_charges
(
    `booked_month` Date COMMENT 'First day of the UTC month the charges are booked in: what is billed',
    `belongs_to_month` Date COMMENT 'First day of the UTC month the requests were made in',
    `day` Date COMMENT 'UTC day the requests were made on',
    `charge_kind` LowCardinality(String) COMMENT 'usage, expired_hold or correction, as in charges',
    `request_id` String COMMENT 'Of a correction: the request; empty where the row is of many',
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
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `prompt_tokens` UInt64 COMMENT 'Prompt of the longest request, caches included: all of a row are in one tier of prices',
    `charges` UInt64 COMMENT 'Charges that the row is made of',
    `requests` Int64 COMMENT 'Requests: without what is only added to one, less what is taken back',
    `input_tokens` Nullable(Int64) COMMENT 'Sum of the known input_tokens; NULL: none is known',
    `cache_read_tokens` Nullable(Int64) COMMENT 'Sum of the known cache_read_tokens; NULL: none is known',
    `cache_write_5m_tokens` Nullable(Int64) COMMENT 'Sum of the known cache_write_5m_tokens; NULL: none is known',
    `cache_write_1h_tokens` Nullable(Int64) COMMENT 'Sum of the known cache_write_1h_tokens; NULL: none is known',
    `output_tokens` Nullable(Int64) COMMENT 'Sum of the known output_tokens; NULL: none is known',
    `thinking_tokens` Nullable(Int64) COMMENT 'Sum of the known thinking_tokens; NULL: none is known',
    `web_searches` Nullable(Int64) COMMENT 'Sum of the known web_searches; NULL: none is known',
    `cost_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars',
    `first_at` DateTime64(3, 'UTC') COMMENT 'When the first request was admitted, UTC',
    `last_at` DateTime64(3, 'UTC') COMMENT 'When the last request was admitted, UTC',
    `last_request_id` String COMMENT 'The last request: the highest id of those admitted at last_at'
)
AS SELECT
    s.booked_month AS booked_month,
    s.belongs_to_month AS belongs_to_month,
    s.day AS day,
    s.charge_kind AS charge_kind,
    s.request_id AS request_id,
    s.customer_id AS customer_id,
    s.customer AS customer,
    s.team_id AS team_id,
    s.team AS team,
    s.user_id AS user_id,
    s.virtual_key_id AS virtual_key_id,
    s.virtual_key AS virtual_key,
    s.project AS project,
    s.repository AS repository,
    s.environment AS environment,
    s.cost_center AS cost_center,
    s.provider AS provider,
    s.provider_credential AS provider_credential,
    s.model AS model,
    s.speed AS speed,
    s.service_tier AS service_tier,
    s.inference_geo AS inference_geo,
    s.outcome AS outcome,
    s.estimated AS estimated,
    s.billing AS billing,
    s.price_book_id AS price_book_id,
    s.prompt_tokens AS prompt_tokens,
    s.charges AS charges,
    s.requests AS requests,
    s.input_tokens AS input_tokens,
    s.cache_read_tokens AS cache_read_tokens,
    s.cache_write_5m_tokens AS cache_write_5m_tokens,
    s.cache_write_1h_tokens AS cache_write_1h_tokens,
    s.output_tokens AS output_tokens,
    s.thinking_tokens AS thinking_tokens,
    s.web_searches AS web_searches,
    s.cost_nusd AS cost_nusd,
    s.list_cost_nusd AS list_cost_nusd,
    s.first_at AS first_at,
    s.last_at AS last_at,
    s.last_request_id AS last_request_id
FROM bursar.booked_rows AS s
WHERE (s.closed_month, s.generation) IN (SELECT m.month, argMax(m.generation, m.stored_at) FROM bursar.booked_months AS m GROUP BY m.month)
UNION ALL
SELECT
    o.booked_month AS booked_month,
    o.belongs_to_month AS belongs_to_month,
    toDate(o.started_at) AS day,
    o.charge_kind AS charge_kind,
    if(o.charge_kind = 'correction', o.request_id, '') AS request_id,
    o.customer_id AS customer_id,
    o.customer AS customer,
    o.team_id AS team_id,
    o.team AS team,
    o.user_id AS user_id,
    o.virtual_key_id AS virtual_key_id,
    o.virtual_key AS virtual_key,
    o.project AS project,
    o.repository AS repository,
    o.environment AS environment,
    o.cost_center AS cost_center,
    o.provider AS provider,
    o.provider_credential AS provider_credential,
    o.model AS model,
    o.speed AS speed,
    o.service_tier AS service_tier,
    o.inference_geo AS inference_geo,
    o.outcome AS outcome,
    o.estimated AS estimated,
    o.billing AS billing,
    o.price_book_id AS price_book_id,
    toUInt64(greatest(0, ifNull(o.input_tokens, 0) + ifNull(o.cache_read_tokens, 0) + ifNull(o.cache_write_5m_tokens, 0) + ifNull(o.cache_write_1h_tokens, 0))) AS prompt_tokens,
    toUInt64(1) AS charges,
    toInt64(o.requests) AS requests,
    o.input_tokens AS input_tokens,
    o.cache_read_tokens AS cache_read_tokens,
    o.cache_write_5m_tokens AS cache_write_5m_tokens,
    o.cache_write_1h_tokens AS cache_write_1h_tokens,
    o.output_tokens AS output_tokens,
    o.thinking_tokens AS thinking_tokens,
    o.web_searches AS web_searches,
    o.cost_nusd AS cost_nusd,
    o.list_cost_nusd AS list_cost_nusd,
    o.started_at AS first_at,
    o.started_at AS last_at,
    o.request_id AS last_request_id
FROM bursar.open_charges AS o
COMMENT 'Charges, those alike as one row: the month booked in, the month it belongs to, what kind it is. Add up charges, requests and costs';

-- As in 010, from booked_charges.
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
            toString(argMax(customer, (last_at, last_request_id))) AS customer, toString(team_id) AS team_id,
            toString(argMax(team, (last_at, last_request_id))) AS team, toString(project) AS project,
            toString(cost_center) AS cost_center, toString(provider) AS provider, toString(billing) AS billing,
            toString(model) AS model, sum(list_cost_nusd) AS list_nusd, sum(cost_nusd) AS billed_nusd
        FROM bursar.booked_charges
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
    toString(argMax(c.customer, (c.last_at, c.last_request_id))) AS customer,
    toString(c.team_id) AS team_id,
    toString(argMax(c.team, (c.last_at, c.last_request_id))) AS team,
    toString(c.project) AS project,
    toString(c.cost_center) AS cost_center,
    toString(c.provider) AS provider,
    toString(c.billing) AS billing,
    toString(c.model) AS model,
    toString(c.charge_kind) AS charge_kind,
    '' AS allocation_id,
    '' AS allocation,
    sum(c.requests) AS requests,
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
FROM bursar.booked_charges AS c
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

-- By the month of the request, as in 004 and 008, from booked_charges: months whose requests are no longer kept stay.
CREATE OR REPLACE VIEW bursar.chargeback_monthly
(
    `month` Date COMMENT 'First day of the UTC month, as the provider bills',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id',
    `customer` LowCardinality(String) COMMENT 'Customer\'s latest name of the month',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id',
    `team` LowCardinality(String) COMMENT 'Team\'s latest name of the month',
    `project` LowCardinality(String) COMMENT 'Project',
    `cost_center` LowCardinality(String) COMMENT 'Cost centre',
    `provider` LowCardinality(String) COMMENT 'Provider that bills',
    `billing` LowCardinality(String) COMMENT 'metered: on our bill; subscription, customer, imported: not on our bill, shown at list price',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, expired holds excluded, dollars',
    `billed_cost_usd` Decimal(38, 9) COMMENT 'Billed cost, expired holds excluded, dollars',
    `estimated_cost_usd` Decimal(38, 9) COMMENT 'Part of billed_cost_usd that is an estimate, dollars',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Charged for expired holds whose true cost never arrived, dollars',
    `total_cost_usd` Decimal(38, 9) COMMENT 'billed_cost_usd + expired_cost_usd: what the budgets were charged, dollars'
)
AS SELECT
    u.belongs_to_month AS month,
    u.customer_id AS customer_id,
    argMax(u.customer, (u.last_at, u.last_request_id)) AS customer,
    u.team_id AS team_id,
    argMax(u.team, (u.last_at, u.last_request_id)) AS team,
    u.project AS project,
    u.cost_center AS cost_center,
    u.provider AS provider,
    u.billing AS billing,
    toUInt64(sum(u.requests)) AS requests,
    toUInt64(ifNull(sum(u.input_tokens), 0)) AS input_tokens,
    toUInt64(ifNull(sum(u.cache_read_tokens), 0)) AS cache_read_tokens,
    toUInt64(ifNull(sum(u.cache_write_5m_tokens), 0)) AS cache_write_5m_tokens,
    toUInt64(ifNull(sum(u.cache_write_1h_tokens), 0)) AS cache_write_1h_tokens,
    toUInt64(ifNull(sum(u.output_tokens), 0)) AS output_tokens,
    toUInt64(ifNull(sum(u.thinking_tokens), 0)) AS thinking_tokens,
    toUInt64(ifNull(sum(u.web_searches), 0)) AS web_searches,
    toDecimal128(sumIf(u.list_cost_nusd, u.outcome != 'expired'), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome != 'expired'), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome != 'expired' AND u.estimated), 9) / 1000000000 AS estimated_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome = 'expired'), 9) / 1000000000 AS expired_cost_usd,
    toDecimal128(sum(u.cost_nusd), 9) / 1000000000 AS total_cost_usd
FROM bursar.booked_charges AS u
GROUP BY month, u.customer_id, u.team_id, u.project, u.cost_center, u.provider, u.billing
HAVING sum(u.requests) != 0 OR sum(u.cost_nusd) != 0 OR sum(u.list_cost_nusd) != 0
COMMENT 'Cost per UTC month, customer, team, project and cost centre; metered and other billing in rows of their own';

CREATE OR REPLACE VIEW bursar.chargeback_monthly_by_model
(
    `month` Date COMMENT 'First day of the UTC month, as the provider bills',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `customer` LowCardinality(String) COMMENT 'Customer\'s latest name of the month',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s latest name of the month',
    `project` LowCardinality(String) COMMENT 'Project; empty: the request named none',
    `cost_center` LowCardinality(String) COMMENT 'Cost centre; empty: the request named none',
    `provider` LowCardinality(String) COMMENT 'Provider that bills',
    `billing` LowCardinality(String) COMMENT 'metered: on our bill; subscription, customer, imported: not on our bill, shown at list price',
    `model` LowCardinality(String) COMMENT 'Model that served',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, expired holds excluded, dollars',
    `billed_cost_usd` Decimal(38, 9) COMMENT 'Billed cost (after discounts), expired holds excluded, dollars',
    `estimated_cost_usd` Decimal(38, 9) COMMENT 'Part of billed_cost_usd that is an estimate, dollars',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Charged for expired holds whose true cost never arrived, dollars',
    `total_cost_usd` Decimal(38, 9) COMMENT 'billed_cost_usd + expired_cost_usd: what the budgets were charged, dollars'
)
AS SELECT
    u.belongs_to_month AS month,
    u.customer_id AS customer_id,
    argMax(u.customer, (u.last_at, u.last_request_id)) AS customer,
    u.team_id AS team_id,
    argMax(u.team, (u.last_at, u.last_request_id)) AS team,
    u.project AS project,
    u.cost_center AS cost_center,
    u.provider AS provider,
    u.billing AS billing,
    u.model AS model,
    toUInt64(sum(u.requests)) AS requests,
    toUInt64(ifNull(sum(u.input_tokens), 0)) AS input_tokens,
    toUInt64(ifNull(sum(u.cache_read_tokens), 0)) AS cache_read_tokens,
    toUInt64(ifNull(sum(u.cache_write_5m_tokens), 0)) AS cache_write_5m_tokens,
    toUInt64(ifNull(sum(u.cache_write_1h_tokens), 0)) AS cache_write_1h_tokens,
    toUInt64(ifNull(sum(u.output_tokens), 0)) AS output_tokens,
    toUInt64(ifNull(sum(u.thinking_tokens), 0)) AS thinking_tokens,
    toUInt64(ifNull(sum(u.web_searches), 0)) AS web_searches,
    toDecimal128(sumIf(u.list_cost_nusd, u.outcome != 'expired'), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome != 'expired'), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome != 'expired' AND u.estimated), 9) / 1000000000 AS estimated_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome = 'expired'), 9) / 1000000000 AS expired_cost_usd,
    toDecimal128(sum(u.cost_nusd), 9) / 1000000000 AS total_cost_usd
FROM bursar.booked_charges AS u
GROUP BY month, u.customer_id, u.team_id, u.project, u.cost_center, u.provider, u.billing, u.model
HAVING sum(u.requests) != 0 OR sum(u.cost_nusd) != 0 OR sum(u.list_cost_nusd) != 0
COMMENT 'Cost per UTC month, customer, team, project, cost centre and model';

CREATE OR REPLACE VIEW bursar.unattributed_monthly
(
    `month` Date COMMENT 'First day of the UTC month, as the provider bills',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `customer` LowCardinality(String) COMMENT 'Customer\'s latest name of the month',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s latest name of the month',
    `missing` LowCardinality(String) COMMENT 'What the requests do not say: owner (neither team nor customer), project or cost_center',
    `virtual_key_id` String COMMENT 'Virtual key\'s id: whom to ask',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s latest name of the month',
    `requests` UInt64 COMMENT 'Requests that were admitted',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, expired holds excluded, dollars',
    `billed_cost_usd` Decimal(38, 9) COMMENT 'Billed cost (after discounts), expired holds excluded, dollars',
    `estimated_cost_usd` Decimal(38, 9) COMMENT 'Part of billed_cost_usd that is an estimate, dollars',
    `expired_cost_usd` Decimal(38, 9) COMMENT 'Charged for expired holds whose true cost never arrived, dollars',
    `total_cost_usd` Decimal(38, 9) COMMENT 'billed_cost_usd + expired_cost_usd: what the budgets were charged, dollars'
)
AS SELECT
    u.belongs_to_month AS month,
    u.customer_id AS customer_id,
    argMax(u.customer, (u.last_at, u.last_request_id)) AS customer,
    u.team_id AS team_id,
    argMax(u.team, (u.last_at, u.last_request_id)) AS team,
    arrayJoin(arrayFilter(name -> name != '', [if(u.team_id = '' AND u.customer_id = '', 'owner', ''), if(u.project = '', 'project', ''), if(u.cost_center = '', 'cost_center', '')])) AS missing,
    u.virtual_key_id AS virtual_key_id,
    argMax(u.virtual_key, (u.last_at, u.last_request_id)) AS virtual_key,
    toUInt64(sum(u.requests)) AS requests,
    toDecimal128(sumIf(u.list_cost_nusd, u.outcome != 'expired'), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome != 'expired'), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome != 'expired' AND u.estimated), 9) / 1000000000 AS estimated_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.outcome = 'expired'), 9) / 1000000000 AS expired_cost_usd,
    toDecimal128(sum(u.cost_nusd), 9) / 1000000000 AS total_cost_usd
FROM bursar.booked_charges AS u
WHERE u.billing = 'metered'
GROUP BY month, u.customer_id, u.team_id, missing, u.virtual_key_id
HAVING sum(u.requests) != 0 OR sum(u.cost_nusd) != 0 OR sum(u.list_cost_nusd) != 0
COMMENT 'Spend without an owner, project or cost centre, per UTC month and key';

CREATE OR REPLACE VIEW bursar.expired_holds_monthly
(
    `month` Date COMMENT 'First day of the UTC month, as the provider bills',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `customer` LowCardinality(String) COMMENT 'Customer\'s latest name of the month',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s latest name of the month',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s latest name of the month',
    `model` LowCardinality(String) COMMENT 'Model that served',
    `requests` UInt64 COMMENT 'Holds that expired: the edge died, and what the provider billed for them is not known',
    `charged_usd` Decimal(38, 9) COMMENT 'What the budgets were charged for them: the largest amount held, dollars'
)
AS SELECT
    u.belongs_to_month AS month,
    u.customer_id AS customer_id,
    argMax(u.customer, (u.last_at, u.last_request_id)) AS customer,
    u.team_id AS team_id,
    argMax(u.team, (u.last_at, u.last_request_id)) AS team,
    u.virtual_key_id AS virtual_key_id,
    argMax(u.virtual_key, (u.last_at, u.last_request_id)) AS virtual_key,
    u.model AS model,
    toUInt64(sum(u.requests)) AS requests,
    toDecimal128(sum(u.cost_nusd), 9) / 1000000000 AS charged_usd
FROM bursar.booked_charges AS u
WHERE u.outcome = 'expired'
GROUP BY month, u.customer_id, u.team_id, u.virtual_key_id, u.model
HAVING sum(u.requests) != 0 OR sum(u.cost_nusd) != 0 OR sum(u.list_cost_nusd) != 0
COMMENT 'Charges for expired holds per UTC month, team, key and model';

CREATE OR REPLACE VIEW bursar.provider_bill_daily
(
    `day` Date COMMENT 'UTC day, as the provider bills',
    `provider` LowCardinality(String) COMMENT 'Provider that bills',
    `provider_credential` LowCardinality(String) COMMENT 'Reference of the credential used (never its value): which of our accounts is billed',
    `model` LowCardinality(String) COMMENT 'Model that served',
    `requests` UInt64 COMMENT 'Requests that reached the provider',
    `estimated` UInt64 COMMENT 'Of these, requests whose charge is an estimate, expired holds included',
    `input_tokens` UInt64 COMMENT 'Sum of the known input_tokens',
    `cache_read_tokens` UInt64 COMMENT 'Sum of the known cache_read_tokens',
    `cache_write_5m_tokens` UInt64 COMMENT 'Sum of the known cache_write_5m_tokens',
    `cache_write_1h_tokens` UInt64 COMMENT 'Sum of the known cache_write_1h_tokens',
    `output_tokens` UInt64 COMMENT 'Sum of the known output_tokens',
    `thinking_tokens` UInt64 COMMENT 'Sum of the known thinking_tokens',
    `web_searches` UInt64 COMMENT 'Sum of the known web_searches',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Cost before discounts, dollars',
    `billed_cost_usd` Decimal(38, 9) COMMENT 'Billed cost, dollars',
    `estimated_cost_usd` Decimal(38, 9) COMMENT 'Part of billed_cost_usd that is an estimate, dollars'
)
AS SELECT
    u.day AS day,
    u.provider AS provider,
    u.provider_credential AS provider_credential,
    u.model AS model,
    toUInt64(sum(u.requests)) AS requests,
    toUInt64(sumIf(u.requests, u.estimated)) AS estimated,
    toUInt64(ifNull(sum(u.input_tokens), 0)) AS input_tokens,
    toUInt64(ifNull(sum(u.cache_read_tokens), 0)) AS cache_read_tokens,
    toUInt64(ifNull(sum(u.cache_write_5m_tokens), 0)) AS cache_write_5m_tokens,
    toUInt64(ifNull(sum(u.cache_write_1h_tokens), 0)) AS cache_write_1h_tokens,
    toUInt64(ifNull(sum(u.output_tokens), 0)) AS output_tokens,
    toUInt64(ifNull(sum(u.thinking_tokens), 0)) AS thinking_tokens,
    toUInt64(ifNull(sum(u.web_searches), 0)) AS web_searches,
    toDecimal128(sum(u.list_cost_nusd), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sum(u.cost_nusd), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(u.cost_nusd, u.estimated), 9) / 1000000000 AS estimated_cost_usd
FROM bursar.booked_charges AS u
WHERE u.billing = 'metered' AND u.outcome != 'not_sent'
GROUP BY day, u.provider, u.provider_credential, u.model
HAVING sum(u.requests) != 0 OR sum(u.cost_nusd) != 0 OR sum(u.list_cost_nusd) != 0
COMMENT 'Metered usage per UTC day, credential and model';

CREATE OR REPLACE VIEW bursar.corrections_monthly
(
    `corrected_month` Date COMMENT 'First day of the UTC month in which the correction was made',
    `usage_month` Date COMMENT 'First day of the UTC month of the corrected requests',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `customer` LowCardinality(String) COMMENT 'Customer\'s latest name',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s latest name',
    `provider` LowCardinality(String) COMMENT 'Provider that bills',
    `reason` String COMMENT 'Why, in a few words',
    `corrections` UInt64 COMMENT 'Corrections made',
    `list_cost_usd` Decimal(38, 9) COMMENT 'Added to the cost before discounts, dollars; negative lowers it',
    `billed_cost_usd` Decimal(38, 9) COMMENT 'Added to the billed cost, dollars; negative lowers it'
)
AS SELECT
    toStartOfMonth(toDate(c.corrected_at)) AS corrected_month,
    e.belongs_to_month AS usage_month,
    e.customer_id AS customer_id,
    argMax(e.customer, e.last_at) AS customer,
    e.team_id AS team_id,
    argMax(e.team, e.last_at) AS team,
    e.provider AS provider,
    c.reason AS reason,
    count() AS corrections,
    sum(toDecimal128(c.list_cost_nusd, 9) / 1000000000) AS list_cost_usd,
    sum(toDecimal128(c.cost_nusd, 9) / 1000000000) AS billed_cost_usd
FROM (SELECT * FROM bursar.corrections FINAL) AS c
INNER JOIN
(
    SELECT DISTINCT request_id, belongs_to_month, customer_id, customer, team_id, team, provider, last_at FROM bursar.booked_charges
    WHERE charge_kind = 'correction' AND requests = 0
) AS e ON e.request_id = c.request_id
GROUP BY corrected_month, usage_month, e.customer_id, e.team_id, e.provider, c.reason
COMMENT 'Corrections per month made, month they belong to, team and reason';
