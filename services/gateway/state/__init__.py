"""Users, sessions, item states and recommendation records: in Redis, or in memory under the same contract."""
