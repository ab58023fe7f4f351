-- What finance bills on. The simulator spends no money and is left out; refused requests cost nothing and are left out.
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
    toStartOfMonth(toDate(u.started_at)) AS month,
    u.customer_id AS customer_id,
    argMax(u.customer, u.started_at) AS customer,
    u.team_id AS team_id,
    argMax(u.team, u.started_at) AS team,
    u.project AS project,
    u.cost_center AS cost_center,
    u.provider AS provider,
    u.billing AS billing,
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
GROUP BY month, u.customer_id, u.team_id, u.project, u.cost_center, u.provider, u.billing
COMMENT 'Cost per UTC month, customer, team, project and cost centre; metered and other billing in rows of their own';
