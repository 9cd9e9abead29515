"""Lets torchvision from PyPI, which is linked to CUDA, be imported beside a CPU build of PyTorch.

It registers two operators at import that its library would have defined. Nothing that is used here calls them.
"""

import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
