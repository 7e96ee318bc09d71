"""Weights in and out: public checkpoints to starts, checkpoints to folders that anybody can load."""
