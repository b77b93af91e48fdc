"""Measuring the network: how fast it trains."""
