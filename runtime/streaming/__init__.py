"""Streams of frames: bounded queues before the networks and before the consumer, reports in order.

`Scope.stream` gives a `Stream`. `Frame` is a picture with its id and metadata, `StreamStats` how it goes, `StreamFailure` what
went wrong without ending it.
"""

from blastscope.runtime.streaming.frame_queue import Frame, StreamFailure, StreamState, StreamStats
from blastscope.runtime.streaming.stream import Stream, WhenFull

__all__ = ["Frame", "Stream", "StreamFailure", "StreamState", "StreamStats", "WhenFull"]
