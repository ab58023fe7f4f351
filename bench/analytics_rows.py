# ruff: noqa: E501 - SQL reads better unbroken
"""Usage rows by the million, made inside the engine: sessions of agents of keys of teams, as a company's traffic looks.

Row ``n`` belongs to session ``n / ROWS_PER_SESSION``; a session belongs to one key and lasts some two hours. Everything
is a function of ``n``, so a table of the same size is the same table.
"""

from __future__ import annotations

from typing import Final

ROWS_PER_SESSION: Final = 60
KEYS: Final = 2000
TEAMS: Final = 60
CUSTOMERS: Final = 5
PROJECTS: Final = 120
BLOCK_ROWS: Final = 200_000
"""Rows of one INSERT: memory stays below a gigabyte, and parts are of the size the writer's merges make."""


def insert_block(first: int, rows: int, total: int, start_s: int, days: int) -> str:
    """One INSERT of ``rows`` rows from number ``first`` on; ``total`` rows span ``days`` days from ``start_s``."""
    return f"""
INSERT INTO bursar.usage_events
(
    request_id, upstream_request_id, message_id, started_at, customer, customer_id, team, team_id, user_id, virtual_key,
    virtual_key_id, session_id, agent_id, parent_agent_id, project, repository, branch, environment, cost_center, tags,
    provider, provider_credential, model, requested_model, stream, max_tokens, effort, service_tier, outcome, status,
    error_type, refused_by, estimated, attempts, billing, client_version, input_tokens, cache_read_tokens,
    cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens, web_searches, tools_offered, tool_uses, cost_nusd,
    list_cost_nusd, held_nusd, bound_nusd, charged_to, price_book_id, latency_ms, time_to_first_token_ms, ended_at,
    text_bytes, charged_n, charged_t, charged_tokens, charged_r, rank, event_id, log_topic, log_partition, log_offset
)
SELECT
    id, concat('req_', hex(sipHash64(n, 1))), concat('msg_', hex(sipHash64(n, 2))),
    fromUnixTimestamp64Milli(at_ms, 'UTC'),
    concat('customer-', toString(c)), concat('customer-id-', toString(c)),
    concat('team-', toString(t)), concat('team-id-', leftPad(toString(t), 24, '0')),
    concat('user-id-', leftPad(toString(k), 28, '0')), concat('key-', toString(k)),
    concat('key-id-', leftPad(toString(k), 29, '0')),
    lower(hex(reinterpretAsFixedString(sipHash128(s)))),
    if(a = 0, '', concat('agent-', lower(hex(sipHash64(s, a))))), if(a > 1, concat('agent-', lower(hex(sipHash64(s, 1)))), ''),
    concat('project-', toString(s % {PROJECTS})), concat('repository-', toString(s % {PROJECTS})),
    concat('feature/', toString(s % 5000)), ['production', 'development'][1 + s % 2], concat('cc-', toString(t % 20)),
    map('ticket', concat('ABC-', toString(s % 10000))),
    'anthropic', 'env:ANTHROPIC_API_KEY', m, m, true, 32000, '', 'standard',
    o, if(o = 'completed', 200, if(o = 'refused', 402, if(o = 'upstream_error', 529, NULL))), if(o = 'upstream_error', 'overloaded_error', ''),
    if(o = 'refused', 'budget_spent', ''), o IN ('interrupted', 'expired'), if(o = 'refused', 0, 1), if(k % 10 = 0, 'subscription', 'metered'), '2.0.50',
    counted ? 10 + r % 400 : NULL, counted ? 5000 + r % 90000 : NULL, counted ? r % 3000 : NULL, 0, counted ? 50 + (r * 7) % 3000 : NULL, 0, 0,
    if(s % 5 = 0, NULL, 20), counted AND s % 5 != 0 ? r % 4 : NULL,
    counted AND k % 10 != 0 ? cost : 0, counted ? cost : 0, cost * 2, cost * 4,
    [concat('n:budget-of-key-', toString(k), ':', toString(toUnixTimestamp(toStartOfMonth(fromUnixTimestamp64Milli(at_ms, 'UTC')))), ':1798761600'),
     concat('n:budget-of-team-', toString(t), ':', toString(toUnixTimestamp(toStartOfMonth(fromUnixTimestamp64Milli(at_ms, 'UTC')))), ':1798761600')],
    'book', counted ? 900 + r % 60000 : NULL, counted ? 300 + r % 4000 : NULL, fromUnixTimestamp64Milli(at_ms + 900 + r % 60000, 'UTC'),
    20000 + r % 200000, counted ? cost : 0, counted ? 100 + r % 6000 : 0, counted ? 5000 + r % 90000 : 0, counted ? 1 : 0,
    if(o = 'refused', 0, 2), concat('usage:', id), 'bursar.usage.v1', 0, n
FROM
(
    SELECT
        number AS n, intDiv(n, {ROWS_PER_SESSION}) AS s, n % {ROWS_PER_SESSION} AS i, sipHash64(n) % 1000000 AS r,
        toInt64({start_s}000 + s * {days * 86_400_000} / {max(1, total // ROWS_PER_SESSION)} + i * 120000 + r % 90000) AS at_ms,
        sipHash64(s) % {KEYS} AS k, k % {TEAMS} AS t, t % {CUSTOMERS} AS c, if(i < 20, 0, intDiv(i, 15)) AS a,
        ['claude-sonnet-4-6', 'claude-opus-4-6', 'claude-haiku-4-5', 'claude-sonnet-4-6', 'claude-opus-4-6', 'claude-sonnet-4-5'][1 + sipHash64(s, a) % 6] AS m,
        multiIf(r % 500 = 0, 'refused', r % 700 = 0, 'upstream_error', r % 900 = 0, 'interrupted', r % 20000 = 3, 'expired', 'completed') AS o,
        o IN ('completed', 'interrupted') AS counted,
        toInt64(3000000 + r * 150) AS cost,
        lower(hex(reinterpretAsFixedString(sipHash128(n, 7)))) AS h, lower(leftPad(hex(toUInt64(at_ms)), 16, '0')) AS th,
        concat(substring(th, 5, 8), '-', substring(th, 13, 4), '-7', substring(h, 1, 3), '-a', substring(h, 4, 3), '-', substring(h, 8, 12)) AS id
    FROM numbers({first}, {rows})
)"""
