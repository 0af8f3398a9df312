"""ClickHouse behind one client: schema, migrations, writing, reading."""
