"""The WS-API: one route table, and what stands behind each route."""
