"""What docker-compose.yml runs, as plain processes: the same graph, the same environment file, no Docker."""
