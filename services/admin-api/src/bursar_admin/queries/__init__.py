"""SQL over ClickHouse, as pure builders: a text with bound parameters (``{name:Type}``), never pasted values."""
