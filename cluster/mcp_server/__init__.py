"""The MCP server, by which an agent outside the farm uses its devices: it can neither score anything itself nor stop others."""
