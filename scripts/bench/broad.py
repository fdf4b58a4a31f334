"""Digits by perceptrons of one hidden layer, ever broader: the same data and accuracy, ever more parameters to send.

`digits` itself has 64 units, 4,810 parameters; each unit more has 75. For finding from where on bytes beat models.
"""

from __future__ import annotations

from gossipnode.learn.images import UCI, Images

W64 = Images(UCI, convolutional=False, hidden=64)
W256 = Images(UCI, convolutional=False, hidden=256)
W1024 = Images(UCI, convolutional=False, hidden=1024)
