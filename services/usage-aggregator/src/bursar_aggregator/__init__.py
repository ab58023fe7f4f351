"""The usage aggregator: brings usage events from the event log into ClickHouse, and serves chDB on one machine."""
