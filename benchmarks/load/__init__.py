"""Load tests as the field runs them: MLPerf's four scenarios, and sweeps over request rate and concurrency.

`run_load` measures; `LoadConfig` says what; `LoadResult` holds a row for each scenario or level.
"""

from blastscope.benchmarks.load.run import LoadConfig, run_load
from blastscope.benchmarks.load.schema import LoadResult, LoadRow

__all__ = ["LoadConfig", "LoadResult", "LoadRow", "run_load"]
