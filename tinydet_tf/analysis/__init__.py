"""Looking at the network: what it costs, what its anchors reach, where it looks, how fast it trains."""
