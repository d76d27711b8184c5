# A run file of plain literal assignments, as in the AstroPT guide. It is read, never executed.
out_dir = "logs/astropt"
batch_size = 8
block_size = 260
n_layer = 4
n_head = 4
n_embd = 128
max_iters = 300
warmup_iters = 50
learning_rate = 2e-3

modalities = {"images": {"kind": "galaxy_images", "patch_size": 4, "spiral": True}}
dataset = {"kind": "galaxy_samples", "split": "train"}
eval = {"val": {"kind": "galaxy_samples", "split": "val"}}
