"""Feature space: what pretraining leaves behind in a network, and whether it is still there after fine-tuning.

similarity   how alike two representations of the same images are; in memory, float64
linear_cka   linear CKA of every block against every block, streaming, on devices
"""
