"""Pure aggregation: events in, rows out. No Faust, no ClickHouse, no clock, no I/O."""
