-- For finance, beside 004: the same rows by model and by kind of token, and apart what does not belong to anybody, what was
-- corrected and what is only a guess. The simulator spends no money and is left out of all of them; so are refusals.

-- As chargeback_monthly, a row a model: sums over it are chargeback_monthly's.
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
    toStartOfMonth(toDate(u.started_at)) AS month,
    u.customer_id AS customer_id,
    argMax(u.customer, u.started_at) AS customer,
    u.team_id AS team_id,
    argMax(u.team, u.started_at) AS team,
    u.project AS project,
    u.cost_center AS cost_center,
    u.provider AS provider,
    u.billing AS billing,
    u.model AS model,
    count() AS requests,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sumIf(u.list_cost_usd, u.outcome != 'expired') AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome != 'expired') AS billed_cost_usd,
    sumIf(u.cost_usd, u.outcome != 'expired' AND u.estimated) AS estimated_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd,
    sum(u.cost_usd) AS total_cost_usd
FROM bursar.usage AS u
WHERE u.provider != 'simulator' AND u.outcome != 'refused'
GROUP BY month, u.customer_id, u.team_id, u.project, u.cost_center, u.provider, u.billing, u.model
COMMENT 'Cost per UTC month, customer, team, project, cost centre and model';

-- A row a kind of token. What a kind cost depends on the price book of each request: /v1/organizations/cost_report and
-- bursar export focus split the cost by it.
CREATE OR REPLACE VIEW bursar.chargeback_monthly_by_token_kind
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
    `token_kind` LowCardinality(String) COMMENT 'input, cache_read, cache_write_5m, cache_write_1h, output (thinking included) or web_search',
    `quantity` UInt64 COMMENT 'Tokens of the kind, as far as known; of web_search searches'
)
AS SELECT
    m.month AS month,
    m.customer_id AS customer_id,
    m.customer AS customer,
    m.team_id AS team_id,
    m.team AS team,
    m.project AS project,
    m.cost_center AS cost_center,
    m.provider AS provider,
    m.billing AS billing,
    m.model AS model,
    kind.1 AS token_kind,
    kind.2 AS quantity
FROM bursar.chargeback_monthly_by_model AS m
ARRAY JOIN [('input', ifNull(m.input_tokens, 0)), ('cache_read', ifNull(m.cache_read_tokens, 0)), ('cache_write_5m', ifNull(m.cache_write_5m_tokens, 0)), ('cache_write_1h', ifNull(m.cache_write_1h_tokens, 0)), ('output', ifNull(m.output_tokens, 0)), ('web_search', m.web_searches)] AS kind
WHERE kind.2 > 0
COMMENT 'Tokens per UTC month, customer, team, project, cost centre, model and kind';

-- Spend on our bill that nobody can be charged by: a request that lacks two things stands in two rows, never twice in one.
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
    toStartOfMonth(toDate(u.started_at)) AS month,
    u.customer_id AS customer_id,
    argMax(u.customer, u.started_at) AS customer,
    u.team_id AS team_id,
    argMax(u.team, u.started_at) AS team,
    arrayJoin(arrayFilter(name -> name != '', [if(u.team_id = '' AND u.customer_id = '', 'owner', ''), if(u.project = '', 'project', ''), if(u.cost_center = '', 'cost_center', '')])) AS missing,
    u.virtual_key_id AS virtual_key_id,
    argMax(u.virtual_key, u.started_at) AS virtual_key,
    count() AS requests,
    sumIf(u.list_cost_usd, u.outcome != 'expired') AS list_cost_usd,
    sumIf(u.cost_usd, u.outcome != 'expired') AS billed_cost_usd,
    sumIf(u.cost_usd, u.outcome != 'expired' AND u.estimated) AS estimated_cost_usd,
    sumIf(u.cost_usd, u.outcome = 'expired') AS expired_cost_usd,
    sum(u.cost_usd) AS total_cost_usd
FROM bursar.usage AS u
WHERE u.provider != 'simulator' AND u.outcome != 'refused' AND u.billing = 'metered'
GROUP BY month, u.customer_id, u.team_id, missing, u.virtual_key_id
COMMENT 'Spend without an owner, project or cost centre, per UTC month and key';

-- Charges that are guesses: if the truth arrives it takes their place.
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
    toStartOfMonth(toDate(u.started_at)) AS month,
    u.customer_id AS customer_id,
    argMax(u.customer, u.started_at) AS customer,
    u.team_id AS team_id,
    argMax(u.team, u.started_at) AS team,
    u.virtual_key_id AS virtual_key_id,
    argMax(u.virtual_key, u.started_at) AS virtual_key,
    u.model AS model,
    count() AS requests,
    sum(u.cost_usd) AS charged_usd
FROM bursar.usage AS u
WHERE u.provider != 'simulator' AND u.outcome = 'expired'
GROUP BY month, u.customer_id, u.team_id, u.virtual_key_id, u.model
COMMENT 'Charges for expired holds per UTC month, team, key and model';

-- Corrections by the month they were made in and the month they belong to; bursar.usage has them in already.
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
    toStartOfMonth(toDate(e.started_at)) AS usage_month,
    e.customer_id AS customer_id,
    argMax(e.customer, e.started_at) AS customer,
    e.team_id AS team_id,
    argMax(e.team, e.started_at) AS team,
    e.provider AS provider,
    c.reason AS reason,
    count() AS corrections,
    sum(toDecimal128(c.list_cost_nusd, 9) / 1000000000) AS list_cost_usd,
    sum(toDecimal128(c.cost_nusd, 9) / 1000000000) AS billed_cost_usd
FROM (SELECT * FROM bursar.corrections FINAL) AS c
INNER JOIN (SELECT * FROM bursar.usage_events FINAL) AS e ON e.request_id = c.request_id
WHERE e.provider != 'simulator'
GROUP BY corrected_month, usage_month, e.customer_id, e.team_id, e.provider, c.reason
COMMENT 'Corrections per month made, month they belong to, team and reason';

-- What the provider should bill us, to lay beside its own report.
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
    toDate(u.started_at) AS day,
    u.provider AS provider,
    u.provider_credential AS provider_credential,
    u.model AS model,
    count() AS requests,
    countIf(u.estimated) AS estimated,
    ifNull(sum(u.input_tokens), 0) AS input_tokens,
    ifNull(sum(u.cache_read_tokens), 0) AS cache_read_tokens,
    ifNull(sum(u.cache_write_5m_tokens), 0) AS cache_write_5m_tokens,
    ifNull(sum(u.cache_write_1h_tokens), 0) AS cache_write_1h_tokens,
    ifNull(sum(u.output_tokens), 0) AS output_tokens,
    ifNull(sum(u.thinking_tokens), 0) AS thinking_tokens,
    ifNull(sum(u.web_searches), 0) AS web_searches,
    sum(u.list_cost_usd) AS list_cost_usd,
    sum(u.cost_usd) AS billed_cost_usd,
    sumIf(u.cost_usd, u.estimated) AS estimated_cost_usd
FROM bursar.usage AS u
WHERE u.provider != 'simulator' AND u.billing = 'metered' AND u.outcome NOT IN ('refused', 'not_sent')
GROUP BY day, u.provider, u.provider_credential, u.model
COMMENT 'Metered usage per UTC day, credential and model';
