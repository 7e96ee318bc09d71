"""Which pretraining is best for my medical imaging task, by how much, how sure are we, at what label budget?"""

__version__ = "0.1.0"
