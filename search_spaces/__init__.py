"""What varies in a sweep: spaces, one study per task split, the searcher that hands trials to Ray Tune."""
