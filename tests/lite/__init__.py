"""Tests of tinydet_lite, one module each; numpy references beside them."""
