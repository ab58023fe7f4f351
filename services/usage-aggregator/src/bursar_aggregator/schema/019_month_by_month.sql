-- Each closed month is stored by itself, when it comes to its checksum: one that does not come to it is read from its
-- requests, and keeps no other from being stored. What month a charge is booked in is as before (log_closes).

CREATE TABLE IF NOT EXISTS bursar.booked_differences
(
    `month` Date COMMENT 'First day of a closed month whose requests did not come to the checksum of its close',
    `checksum` String COMMENT 'SHA-256 (hex) that they came to',
    `closed_with` String COMMENT 'SHA-256 (hex) of the close',
    `charges` UInt64 COMMENT 'Charges they were',
    `tried_at` DateTime64(3, 'UTC') COMMENT 'When that was last found, UTC'
)
ENGINE = ReplacingMergeTree(tried_at)
ORDER BY month
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Closed months that could not be stored; those that were stored since are in booked_months';

ALTER TABLE bursar.booked_months
    MODIFY COMMENT 'Months whose books are stored in booked_rows; others are computed from requests';

-- A close fixes the months since the close before; the first one everything before it.
CREATE OR REPLACE VIEW bursar.stored_closes
(
    `month` Date COMMENT 'First day of a month that is closed',
    `covers_from` Date COMMENT 'First day of the first month that its close fixed; 1970: it is the first close',
    `stored` Bool COMMENT 'Its books are read from booked_rows, not from requests',
    `differs` Bool COMMENT 'Its requests did not come to the checksum of the close when that was last looked at'
)
AS SELECT
    x.at.1 AS month,
    x.at.2 AS covers_from,
    month IN (SELECT month FROM bursar.booked_months) AS stored,
    NOT stored AND month IN (SELECT month FROM bursar.booked_differences) AS differs
FROM
(
    SELECT arrayJoin(arrayZip(months, arrayPushFront(arrayMap(each -> addMonths(each, 1), arrayPopBack(months)), toDate(0)))) AS at
    FROM
    (
        SELECT arraySort(groupUniqArray(month)) AS months
        FROM (SELECT month FROM bursar.closed_months UNION ALL SELECT month FROM bursar.booked_months)
    )
    WHERE notEmpty(months)
) AS x
COMMENT 'Which closed months are stored';

CREATE OR REPLACE VIEW bursar.unstored_days
(
    `day` Date COMMENT 'UTC day of a closed month whose books are not stored'
)
AS SELECT arrayJoin(arrayMap(each -> toDate(u.covers_from + each), range(toUInt32(dateDiff('day', u.covers_from, addMonths(u.month, 1)))))) AS day
FROM bursar.stored_closes AS u
WHERE NOT u.stored
COMMENT 'Days whose requests are read for the books of closed months';

-- Of a request of a stored month only what came after that month's close, and those of the stored months that follow it
-- without a gap, can be booked in a month that is not stored.
CREATE OR REPLACE VIEW bursar.late_bounds
(
    `log_topic` LowCardinality(String) COMMENT 'Topic of the log',
    `log_partition` UInt32 COMMENT 'Partition of the topic',
    `ends` Array(Date) COMMENT 'Stored months that a month follows which is not stored, earliest first',
    `bounds` Array(UInt64) COMMENT 'Of each of them: the first offset that came after the close'
)
AS SELECT
    c.log_topic AS log_topic,
    c.log_partition AS log_partition,
    (
        SELECT arrayFilter((m, i) -> has(stored, m) AND NOT has(stored, arrayElement(months, i + 1)), months, arrayEnumerate(months))
        FROM
        (
            SELECT arraySort(groupArray(month)) AS months, groupArrayIf(month, stored) AS stored FROM bursar.stored_closes
        )
    ) AS ends,
    arrayMap(each -> arrayElement(c.bounds, indexOf(c.months, each)), ends) AS bounds
FROM bursar.log_closes AS c
COMMENT 'From where on the log has charges of stored months that are booked in others';

CREATE OR REPLACE VIEW bursar.booked_horizons
(
    `stored_to` Date COMMENT 'First day of the month after the last one before which every closed month is stored; 1970: none is',
    `closed_to` Date COMMENT 'First day of the month after the last one that is closed; 1970: none is'
)
AS SELECT
    (
        SELECT if(countIf(NOT s.stored) = 0, if(count() = 0, toDate(0), addMonths(max(s.month), 1)), minIf(s.covers_from, NOT s.stored))
        FROM bursar.stored_closes AS s
    ) AS stored_to,
    (SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.closed_months) AS closed_to
COMMENT 'How far months are stored without a gap, and closed';

-- Rows of partitions that no close names are found by it. Only its name and kind: parts that are there are read as a whole
-- (two columns of hardly any size) until they are merged.
ALTER TABLE bursar.usage_events
    ADD INDEX IF NOT EXISTS log_place_index (log_topic, log_partition) TYPE set(64) GRANULARITY 1;

-- Charges of the months that are not stored: of months that no close has reached the requests as they are; before, those of
-- closed months that are not stored, and what came after the closes of those that are: behind their bounds, or in a
-- partition that no close names, all of which is later than any of them. The rules are those of charges (010).
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
            toDate(started_at) IN (SELECT day FROM bursar.unstored_days) OR (toDate(started_at), virtual_key_id, request_id) IN
            (
                SELECT toDate(started_at), virtual_key_id, request_id FROM bursar.usage_events
                WHERE started_at < toDateTime64((SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months), 3, 'UTC')
                    AND log_offset >= (SELECT ifNull(min(arrayMin(bounds)), 0) FROM bursar.late_bounds)
                    AND log_offset >= arrayElement(arrayElement(
                        (SELECT groupArray(bounds) FROM (SELECT * FROM bursar.late_bounds ORDER BY log_topic, log_partition)),
                        indexOf((SELECT groupArray((toString(log_topic), log_partition)) FROM (SELECT * FROM bursar.late_bounds ORDER BY log_topic, log_partition)), (toString(log_topic), log_partition))),
                        indexOf((SELECT any(ends) FROM bursar.late_bounds), arrayFirst(each -> each >= toStartOfMonth(toDate(started_at)), (SELECT any(ends) FROM bursar.late_bounds))))
                UNION ALL
                SELECT toDate(started_at), virtual_key_id, request_id FROM bursar.usage_events
                WHERE started_at < toDateTime64((SELECT if(count() = 0, toDate(0), addMonths(max(month), 1)) FROM bursar.booked_months), 3, 'UTC')
                    AND NOT has((SELECT groupArray((toString(log_topic), log_partition)) FROM (SELECT * FROM bursar.late_bounds ORDER BY log_topic, log_partition)), (toString(log_topic), log_partition))
            )
        )
) AS e
LEFT JOIN bursar.log_closes AS c ON c.log_topic = e.log_topic AND c.log_partition = e.log_partition
LEFT JOIN bursar.expired_booked AS x ON x.request_id = e.request_id
WHERE NOT has((SELECT arraySort(groupUniqArray(month)) FROM bursar.booked_months), arrayFirst(m -> m >= booked_month, (SELECT arraySort(groupUniqArray(month)) FROM bursar.stored_closes)))
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
WHERE NOT has((SELECT arraySort(groupUniqArray(month)) FROM bursar.booked_months), arrayFirst(m -> m >= at.1, (SELECT arraySort(groupUniqArray(month)) FROM bursar.stored_closes)))
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
WHERE NOT has((SELECT arraySort(groupUniqArray(month)) FROM bursar.booked_months), arrayFirst(m -> m >= booked_month, (SELECT arraySort(groupUniqArray(month)) FROM bursar.stored_closes)))
COMMENT 'As charges, of months whose books are not stored yet: read where needed only';

-- As in 014. Of a stored month only what its own close fixed, after the close before: an aggregator of a release before,
-- which may run beside this one, stores months that are not stored together with the next one that it does store.
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
    AND s.booked_month <= s.closed_month
    AND s.booked_month > arrayElement((SELECT arraySort(groupUniqArray(month)) FROM bursar.stored_closes), indexOf((SELECT arraySort(groupUniqArray(month)) FROM bursar.stored_closes), s.closed_month) - 1)
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
