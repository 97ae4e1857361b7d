"""A small page in the browser that shows a stream: the frames with what was found in them, counts, drops and latency.

`LivePage` serves it, to this machine alone unless told otherwise; `open_source` gives frames of a camera, a folder or files.
"""

from blastscope.runtime.live.page import LivePage
from blastscope.runtime.live.sources import Source, open_source

__all__ = ["LivePage", "Source", "open_source"]
