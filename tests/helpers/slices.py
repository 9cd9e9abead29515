"""Slices with known content."""

import torch


def ramps(rows, columns):
    """An image whose two channels are the coordinates of its pixels' centres."""
    row = torch.arange(rows, dtype=torch.float64)[:, None].expand(rows, columns) + 0.5
    column = torch.arange(columns, dtype=torch.float64).expand(rows, columns) + 0.5
    return torch.stack([row, column])
