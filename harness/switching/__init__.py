"""What a switch costs whoever waits for it, and whoever does not: measured alone and beside others."""
