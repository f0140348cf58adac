import torch

# On tensors this small a second thread is nothing but waiting, and on a busy machine it is minutes of it.
torch.set_num_threads(1)
