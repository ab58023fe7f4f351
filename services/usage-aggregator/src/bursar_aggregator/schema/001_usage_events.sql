-- Raw rows: one per event of the usage topic. A request's row of the highest rank stands; redelivered events meet their
-- twins in one partition (started_at is the same on all) and are merged, so a second insert changes nothing.
-- fsync: on one machine the log's position is committed after the insert, so the insert must be on the disk.
CREATE TABLE IF NOT EXISTS bursar.usage_events
(
    `request_id` String COMMENT 'UUIDv7 minted by the edge; the hold has the same id',
    `upstream_request_id` String COMMENT 'The provider\'s id of the request (its request-id header); empty where none came',
    `message_id` String COMMENT 'The provider\'s id of the message; empty where none came',
    `started_at` DateTime64(3, 'UTC') COMMENT 'When the edge admitted the request, UTC, milliseconds; the same on every event of the request',
    `customer` LowCardinality(String) COMMENT 'Customer\'s name as of then',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `team` LowCardinality(String) COMMENT 'Team\'s name as of then',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `user_id` String COMMENT 'Person\'s id; the only thing about a person in the log',
    `virtual_key` LowCardinality(String) COMMENT 'Virtual key\'s name as of then',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `session_id` String COMMENT 'Claude Code\'s session',
    `agent_id` String COMMENT 'Claude Code\'s agent within the session',
    `parent_agent_id` String COMMENT 'The agent that started this agent',
    `project` LowCardinality(String) COMMENT 'x-bursar-project of the request',
    `repository` LowCardinality(String) COMMENT 'x-bursar-repository of the request',
    `branch` String COMMENT 'x-bursar-branch of the request',
    `environment` LowCardinality(String) COMMENT 'x-bursar-environment of the request',
    `cost_center` LowCardinality(String) COMMENT 'x-bursar-cost-center of the request',
    `tags` Map(String, String) COMMENT 'Any other tags of the request',
    `provider` LowCardinality(String) COMMENT 'Provider entity that served; simulator: Bursar\'s own, no money was spent',
    `provider_credential` LowCardinality(String) COMMENT 'Reference of the credential used (never its value); client: the caller\'s own',
    `model` LowCardinality(String) COMMENT 'Model that served, as far as known, else the requested one',
    `requested_model` LowCardinality(String) COMMENT 'Model the client asked for',
    `stream` Bool COMMENT 'Whether the client asked for a stream',
    `max_tokens` Nullable(Int64) COMMENT 'Output tokens the client allowed; NULL: not given',
    `effort` LowCardinality(String) COMMENT 'Effort the client asked for',
    `speed` LowCardinality(String) COMMENT 'Speed asked for or served (fast)',
    `service_tier` LowCardinality(String) COMMENT 'Service tier that served',
    `inference_geo` LowCardinality(String) COMMENT 'Region the inference ran in',
    `outcome` LowCardinality(String) COMMENT 'completed, interrupted, unreadable, unknown, expired, upstream_error, not_sent or refused',
    `status` Nullable(UInt16) COMMENT 'HTTP status the client was given; NULL: none was sent',
    `error_type` LowCardinality(String) COMMENT 'error.type of the answer',
    `refused_by` LowCardinality(String) COMMENT 'Reason of the refusal; empty: not refused',
    `estimated` Bool COMMENT 'The charge is an estimate, not the provider\'s own count',
    `attempts` UInt16 COMMENT 'Times the request was sent upstream',
    `billing` LowCardinality(String) COMMENT 'metered, subscription, customer or imported',
    `client_version` LowCardinality(String) COMMENT 'Version of the client',
    `device_id` String COMMENT 'The client\'s device',
    `input_tokens` Nullable(UInt64) COMMENT 'Input tokens, cached ones excluded; NULL: unknown, which is not zero',
    `cache_read_tokens` Nullable(UInt64) COMMENT 'Tokens read from the cache; NULL: unknown',
    `cache_write_5m_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 5 minute cache; NULL: unknown',
    `cache_write_1h_tokens` Nullable(UInt64) COMMENT 'Tokens written to the 1 hour cache; NULL: unknown',
    `output_tokens` Nullable(UInt64) COMMENT 'Output tokens, thinking included; NULL: unknown',
    `thinking_tokens` Nullable(UInt64) COMMENT 'Thinking tokens, part of output_tokens; NULL: unknown',
    `web_searches` Nullable(UInt64) COMMENT 'Web searches; NULL: unknown',
    `cost_nusd` Int64 COMMENT 'Billed cost (after discounts), nano-dollars: what every budget in charged_to was charged',
    `list_cost_nusd` Int64 COMMENT 'Cost before discounts, nano-dollars; for subscription and customer billing what it would have cost',
    `held_nusd` Int64 COMMENT 'What was held for the request at admission, nano-dollars',
    `bound_nusd` Int64 COMMENT 'The most the request could have cost, nano-dollars',
    `charged_to` Array(String) COMMENT 'Counters charged: unit:limit id:window start s:window end s',
    `price_book_id` LowCardinality(String) COMMENT 'Price book the cost was computed with',
    `latency_ms` Nullable(UInt64) COMMENT 'Admission to the end of the answer, milliseconds; NULL: unknown',
    `time_to_first_token_ms` Nullable(UInt64) COMMENT 'Admission to the first content, milliseconds; NULL: unknown',
    `ended_at` Nullable(DateTime64(3, 'UTC')) COMMENT 'When the answer ended, UTC, milliseconds; NULL: unknown',
    `text_bytes` UInt64 COMMENT 'Bytes of the request body that can become text tokens',
    `charged_n` Int64 COMMENT 'Charge to counters of unit n, nano-dollars',
    `charged_t` Int64 COMMENT 'Charge to counters of unit t: tokens without cache reads',
    `charged_tokens` Int64 COMMENT 'Charge to counters of unit T: tokens with cache reads',
    `charged_r` Int64 COMMENT 'Charge to counters of unit r: requests',
    `rank` UInt8 COMMENT 'Which event of a request wins: denied 0, expired 1, recorded 2',
    `event_id` String COMMENT 'CloudEvents id of the event the row was made of',
    `log_topic` LowCardinality(String) COMMENT 'Topic the event was read from',
    `log_partition` UInt32 COMMENT 'Partition the event was read from',
    `log_offset` UInt64 COMMENT 'Offset the event was read at',
    INDEX request_id_index request_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX session_id_index session_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(rank)
PARTITION BY toYYYYMM(started_at)
ORDER BY (toDate(started_at), virtual_key_id, request_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'One row per usage event, duplicates until merged; query bursar.usage instead';

CREATE TABLE IF NOT EXISTS bursar.corrections
(
    `correction_id` String COMMENT 'Id of the correction event; the same correction counts once',
    `request_id` String COMMENT 'Request that is corrected',
    `corrected_at` DateTime64(3, 'UTC') COMMENT 'When the correction was made, UTC',
    `reason` String COMMENT 'Why, in a few words',
    `cost_nusd` Int64 COMMENT 'Added to the billed cost, nano-dollars; negative lowers it',
    `list_cost_nusd` Int64 COMMENT 'Added to the list cost, nano-dollars; negative lowers it',
    `input_tokens` Int64 COMMENT 'Added to input_tokens; negative lowers it',
    `cache_read_tokens` Int64 COMMENT 'Added to cache_read_tokens; negative lowers it',
    `cache_write_5m_tokens` Int64 COMMENT 'Added to cache_write_5m_tokens; negative lowers it',
    `cache_write_1h_tokens` Int64 COMMENT 'Added to cache_write_1h_tokens; negative lowers it',
    `output_tokens` Int64 COMMENT 'Added to output_tokens; negative lowers it',
    `thinking_tokens` Int64 COMMENT 'Added to thinking_tokens; negative lowers it',
    `web_searches` Int64 COMMENT 'Added to web_searches; negative lowers it'
)
ENGINE = ReplacingMergeTree
ORDER BY (request_id, correction_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Corrections of recorded requests, summed into bursar.usage';

CREATE TABLE IF NOT EXISTS bursar.people
(
    `user_id` String COMMENT 'Person''s id as in the log',
    `name` String COMMENT 'Person''s name as shown in reports',
    `version` UInt64 COMMENT 'Version of the entity; the highest stands'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY user_id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Names of people, kept apart so that a person can be forgotten: delete the row';
