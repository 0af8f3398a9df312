"""The Faust application: settings, lanes, agents, writer, health, and the embedded stack."""
