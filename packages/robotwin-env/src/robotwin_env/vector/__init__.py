"""Many environments at once, in worker processes."""

from robotwin_env.vector.host import ChunkEnv, EnvFailure, Job
from robotwin_env.vector.pool import EnvironmentPool, PoolError

__all__ = ["ChunkEnv", "EnvFailure", "EnvironmentPool", "Job", "PoolError"]
