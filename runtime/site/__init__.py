"""A site's own proof: its labelled frames against the bundle's calls, and its cells against those of the training.

`validate` compares calls with labels; where that went well, the record that it leaves lets reports say `validated`.
`Drift` is fed with reports and says when a session's cells don't look like the training's any more.
"""
