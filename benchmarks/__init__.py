"""``make bench``: measures ratios side by side in one run, since machines are shared and noisy."""
