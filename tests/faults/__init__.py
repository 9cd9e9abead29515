"""Broken inputs, killed runs: each must end as a result or as one plain line."""
