"""For every test, of the core and of the plugins: one thread, since tests run side by side."""

import torch

torch.set_num_threads(1)
