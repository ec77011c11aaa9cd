"""Speed, measured: us and the peers in the same run, interleaved, ratios with their spread."""
