"""Ways to the engine on another machine: through an agent, or through the manager."""
