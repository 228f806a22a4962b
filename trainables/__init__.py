"""What a trial is: the Ray Tune trainable around the staged run, and its folder on shared storage."""
