"""What is behind everybody's inbound hop: C does the work, on the load generator's processor."""
