"""A farm on Ray: engine, workers, jobs and what is carried between machines. The only place that imports Ray."""
