"""One thread for every test: a second one on a busy core costs far more than it gives."""

import torch

torch.set_num_threads(1)
