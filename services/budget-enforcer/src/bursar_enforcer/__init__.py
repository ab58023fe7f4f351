"""The enforcer: decides over every budget and rate limit in one Redis script, and keeps the ledger."""
