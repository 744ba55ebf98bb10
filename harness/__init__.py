"""The instrument: replays traces against arms, measures them, and says whether the run can be trusted."""
