-- As in 014, with sums 128 bits wide: nano-dollars of more than nine billion dollars do not fit into 64.
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
    toDecimal128(sumIf(toInt128(u.list_cost_nusd), u.outcome != 'expired'), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome != 'expired'), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome != 'expired' AND u.estimated), 9) / 1000000000 AS estimated_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome = 'expired'), 9) / 1000000000 AS expired_cost_usd,
    toDecimal128(sum(toInt128(u.cost_nusd)), 9) / 1000000000 AS total_cost_usd
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
    toDecimal128(sumIf(toInt128(u.list_cost_nusd), u.outcome != 'expired'), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome != 'expired'), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome != 'expired' AND u.estimated), 9) / 1000000000 AS estimated_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome = 'expired'), 9) / 1000000000 AS expired_cost_usd,
    toDecimal128(sum(toInt128(u.cost_nusd)), 9) / 1000000000 AS total_cost_usd
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
    toDecimal128(sumIf(toInt128(u.list_cost_nusd), u.outcome != 'expired'), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome != 'expired'), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome != 'expired' AND u.estimated), 9) / 1000000000 AS estimated_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.outcome = 'expired'), 9) / 1000000000 AS expired_cost_usd,
    toDecimal128(sum(toInt128(u.cost_nusd)), 9) / 1000000000 AS total_cost_usd
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
    toDecimal128(sum(toInt128(u.cost_nusd)), 9) / 1000000000 AS charged_usd
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
    toDecimal128(sum(toInt128(u.list_cost_nusd)), 9) / 1000000000 AS list_cost_usd,
    toDecimal128(sum(toInt128(u.cost_nusd)), 9) / 1000000000 AS billed_cost_usd,
    toDecimal128(sumIf(toInt128(u.cost_nusd), u.estimated), 9) / 1000000000 AS estimated_cost_usd
FROM bursar.booked_charges AS u
WHERE u.billing = 'metered' AND u.outcome != 'not_sent'
GROUP BY day, u.provider, u.provider_credential, u.model
HAVING sum(u.requests) != 0 OR sum(u.cost_nusd) != 0 OR sum(u.list_cost_nusd) != 0
COMMENT 'Metered usage per UTC day, credential and model';
