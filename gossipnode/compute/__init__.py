"""The learner behind the compute seam: a worker process in production, inline in simulation."""
